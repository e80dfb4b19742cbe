// Package web is the service of the daemon: what the command line, scripts and
// later the console ask of it.
//
//	skfs start -m AM ──▶ Client ──unix socket──▶ Server ──▶ ha.Supervisor
//	                             SAFEVAR/skfs.sock      ──▶ conf (configurations)
//
// HTTP with JSON bodies; what goes on for a time (watch, logview) is a stream of
// JSON values, one a line.
//
//	GET  /v1/node                        Node
//	GET  /v1/modules                     []Module: all that are installed
//	GET  /v1/modules/{am}                Module
//	GET  /v1/modules/{am}/watch          stream of ha.ModuleState: now, and after each change
//	POST /v1/modules/{am}/command        Command: returns when it is accepted
//	GET  /v1/modules/{am}/errd           ha.Detection: what errd monitors
//	GET  /v1/modules/{am}/rules          ha.RulesView: the failover rules and what they come to now
//	GET  /v1/modules/{am}/history        stream of ha.Change; query: name, since
//	GET  /v1/modules/{am}/log            stream of ha.Line; query: n, level, follow
//	POST /v1/modules/{am}/log            Message: a line for the log
//	GET  /v1/modules/{am}/transitions    []ha.Transition; query: n
//	POST /v1/modules/{am}/config         makes SAFE/modules/AM the active configuration: Configured
//	POST /v1/modules/{am}/deconfig       takes the active configuration away
//	POST /v1/modules/{am}/uninstall      removes the module
//	POST /v1/cluster                     ClusterConfig: makes it the active one
//	POST /v1/cluster/drop                takes the cluster configuration away
//
// # Guarantees
//
//   - An error has a status that says its kind (404 no such module, 409 refused
//     in this state, 400 the request or a file is wrong) and a text for people.
//     The client turns kinds back into the errors of ha and conf.
//   - Configurations are changed here, in the daemon, after the module's state
//     has been looked at: two commands at once cannot come between each other's
//     check and effect.
//   - A request that is wrong, too long or broken off ends its connection and
//     nothing else.
//
// # Assumptions
//
// Whoever can open the socket (mode 0600: root) may do everything.
//
// # Locks
//
// Server.config serialises changes of configuration. It is held while conf and
// the supervisor are called, and nothing that holds a lock calls this package.
package web

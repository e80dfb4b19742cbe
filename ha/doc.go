// Package ha decides what a module does on this node: the automaton of the
// guide's states (STOP, WAIT, ALONE, PRIM, SECOND), the heartbeats to the other
// node, the scripts of the application, the log and the resources of the module.
package ha

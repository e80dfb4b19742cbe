// Package echo is an application for farms and the clients of it: a server that says
// who it is and gives back the lines that it gets, over TCP, and says who it is over
// UDP; and clients. One asks it, one holds many connections and notices when one breaks
// (Hold), one has a flow in many buckets of a farm and measures for how long each was
// not served (Watch), one listens for what a station sends (Overhear). They run as roles
// of the lab.
package echo

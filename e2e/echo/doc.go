// Package echo is an application for farms and the clients of it: a server that says
// who it is and gives back the lines that it gets, one that asks it, and one that
// holds many connections and notices when one breaks. They run as roles of the lab.
package echo

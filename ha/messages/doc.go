// Package messages is the catalogue of what skfs writes to the log of a module, in
// English and in French.
//
// The log keeps the English text: it is what scripts and administrators search for,
// and the guide's index of messages (its last pages) lists it. A reader who asks for
// French (log -l fr, or LANG) gets it translated as it is shown:
//
//	"Resource heartbeat.flow set to down by heart"
//	        │ matches "Resource {} set to {} by {}"
//	        ▼
//	"Ressource heartbeat.flow positionnée à down par heart"
//
// What stands for {} is kept as it is: names, states, errors of the system. A text that
// is not in the catalogue (what scripts write) is shown as it is.
//
// The tests hold that every text of the guide's index is in the catalogue, and name
// what the sources write and it does not have.
package messages

// Package rules is the language of failover rules (guide §13.18): what the state of
// resources makes a module do.
//
//	text ──Parse──▶ []Rule ──Set──▶ Set.Evaluate(Facts) ──▶ []Result ──Decide──▶ Decision
//
// It is pure: no clock, no I/O, no state. When a decision is carried out, and how
// often, is for who calls it (package ha).
//
// # The language
//
//	rules      = { rule }
//	rule       = label ":" "if" "(" condition ")" "then" consequence ";"
//	consequence= ( "stop" | "stopstart" | "wait" | "restart" | "swap" ) "(" ")"
//	           | resource "=" state
//	condition  = and { "||" and }
//	and        = not { "&&" not }
//	not        = { "!" } comparison
//	comparison = operand [ ( "==" | "!=" ) operand ]
//	operand    = "(" condition ")" | resource | state | "cluster" "(" ")"
//	resource   = [ "local." | "remote." ] class "." ( name | "?" | "*" )
//	state      = "init" | "down" | "up" | "unknown" | quoted text
//
// Space and comments (/* … */, and // to the end of the line) may stand between
// any two words. "!" binds less than "==", so that !a == b is !(a == b): of two
// states nothing else has a meaning, and of two conditions it is the same. The ";"
// of the last rule may be missing.
//
// class.? stands for any resource of the class, class.* for all of them; a class
// that has no resource makes the comparison false. cluster() is up while this node
// hears another one of the cluster.
//
// # Three values
//
// A resource that is init, or does not exist, says nothing yet: a comparison with
// it is undetermined, unless it asks for init. A condition is undetermined if what
// is undetermined in it could still turn it either way (Kleene's logic), and then
// its rule does not apply. All resources of a remote node that is silent, or whose
// module is stopped, are unknown; so is one that a remote node does not have.
//
// # Which rule wins
//
// Of the rules that apply at once the strongest action counts: stop, wait,
// stopstart, restart, swap, in this order; of several with the same, those that the
// module defines come before those of the product, and then the one that is written
// first. A rule that the module defines under the label of one of the product's
// replaces it.
//
// # How it is tested
//
// Tables of texts and errors in testdata, a fuzz target (what is accepted prints to
// a text that is accepted and means the same), and the truth tables against a
// second, naive evaluator (rapid).
package rules

// Package group keeps the members of a farm, or the nodes of a cluster, agreed on
// who they are (guide §13.4, §12): 2 to 32 nodes that send each other datagrams on
// one or several networks.
//
//	Tick, Hear, Stalled, SetInfo ──▶ Node ──▶ View, Ready, Message     (pure: no clock,
//	                                                                    no I/O)
//	sockets, time ◀── Transport (transport.go) ──▶ Node
//
// # How it works
//
// Every member has a Row: an incarnation and a counter, whom it hears, which view
// it goes by, and what it says of itself (Info, opaque here). A message holds the
// rows of all that its sender knows of, so that a counter reaches also those that
// the member's own datagrams do not reach (as gossip membership does). A member is
// heard while its counter goes on. Who hears whom is so a transitive relation, and
// the members that hear each other both ways are the strongly connected components
// of the graph of the networks: an equivalence, on which all agree once the rows
// have gone round, whatever links are cut in whatever direction.
//
// A View is what they act on: an epoch, the members, and a state that travels with
// it (the table of buckets of a farm). It is made by the first member by name that
// has one already, from the greatest view it knows; everybody goes over to a greater
// view as soon as it comes from a member that it hears and that hears it. So a
// newcomer takes over the state in force, and two halves that meet again go on from
// the state of one of them.
//
// # Guarantees
//
//   - Views with equal epochs are equal. The epochs that a node goes by only grow.
//   - When nothing is lost any more, all members of a component have one view, of
//     these members, after 2 × window + 4 ticks at the latest, and it stays. (Where
//     messages have to go over other members, one tick more for each.)
//   - A node says Ready only when its view has itself in it and is in force as far as
//     it can know: it has listened for a window since it began, or since it was
//     stopped (Stalled), or a member has confirmed the view in answer to what this
//     node sent since.
//
// # Assumptions
//
// Two nodes that do not hear each other both ways both go on (§4.3.6). All members
// have the same list of names, and where two hear each other over others only, fewer
// of these than the counts of silence; messages of another list are refused by the codec.
// Datagrams may be lost, doubled, late, and out of order; they are not forged (the
// transport signs them).
//
// # How it is tested
//
// explore_test.go has every sequence of two rounds of partitions, one-way cuts,
// crashes, restarts, pauses and late messages among three nodes (283,968; each 29th
// in CI, all with E2E_LONG=1), and lets each settle; random_test.go does the same by
// chance for up to 32. mutants_test.go checks that they would notice.
package group

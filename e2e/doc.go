// Package e2e holds the tests of skfs as a whole, on hosts made of namespaces:
// package lab makes the hosts, pair puts skfs on two of them, tree compares what
// they have on disk, exercise works on their files, ledger notes outside of them
// what was acknowledged.
//
// The tests need root. E2E_LONG=1 runs them to the full (make e2e-long),
// E2E_RACE=1 builds the skfs under test with the race detector, E2E_ROUNDS and
// E2E_SEED set number and choice of random rounds, E2E_MINUTES how long
// TestFalseAlarms lasts; E2E_ROWS selects rows of TestReturn and E2E_FAULTS faults of
// TestMixedFaults, each by a regular expression. What an environment lacks (mkfs.xfs,
// PostgreSQL…) is named by the test that skips for it; .ci/run installs it all.
package e2e

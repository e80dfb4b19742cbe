//go:build race

package ha

// raceEnabled says that the race detector slows everything down.
const raceEnabled = true

package group

import (
	"math/rand"
	"testing"

	"pgregory.net/rapid"
)

// TestRandom plays schedules drawn by chance among 2 to 32 hosts.
func TestRandom(t *testing.T) {
	for _, n := range []int{2, 5, 32} {
		t.Run(string(rune('0'+n/10))+string(rune('0'+n%10)), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { playRandom(t, n) })
		})
	}
}

func playRandom(t *rapid.T, n int) {
	if n > 8 && rapid.IntRange(0, 9).Draw(t, "one of ten") != 0 {
		return // it costs as much as a hundred small ones
	}
	// The longest way over others is shorter than the limit, as doc.go assumes.
	least, mostLost := map[int]int{2: 2, 5: 5, 32: 8}[n], 4
	if n > 8 {
		mostLost = 3
	}
	w := newWorld(n, least+rapid.IntRange(0, 3).Draw(t, "limit"))
	w.chain = n
	r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
	for i := range n {
		if r.Intn(2) == 0 {
			w.start(i)
		}
	}
	w.start(0)
	steps := rapid.IntRange(1, 12).Draw(t, "steps")
	if n > 8 {
		steps = min(steps, 4)
	}
	for range steps {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0: // a partition
			side := make([]bool, n)
			for i := range side {
				side[i] = r.Intn(2) == 0
			}
			for i := range n {
				for j := range n {
					w.cut[i][j] = side[i] != side[j]
				}
			}
		case 1: // links of their own
			lost := rapid.IntRange(1, mostLost).Draw(t, "lost") // of 5
			for i := range n {
				for j := range n {
					w.cut[i][j] = r.Intn(5) < lost
				}
			}
		case 2:
			w.connect(nil)
		case 3:
			a, i := rapid.IntRange(0, len(acts)-1).Draw(t, "act"), rapid.IntRange(0, n-1).Draw(t, "host")
			acts[a].do(w, i)
			w.flush()
			if w.nodes[i] != nil && w.late[i].Rows == nil {
				w.late[i] = w.nodes[i].Message()
			}
		}
		for range rapid.IntRange(1, w.limit+2).Draw(t, "ticks") {
			w.pulse()
		}
	}
	w.settle()
	if w.bad == "" {
		w.connect(nil)
		w.settle()
	}
	if w.bad != "" {
		t.Fatal(w.bad)
	}
}

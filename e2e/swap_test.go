package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/pair"
)

// Where the time of a swap goes. The application takes none of its own: it runs on both
// hosts, and serves where start_prim has made a file that stop_prim removes. So what a
// client misses, from the removal to the first answer after it, is the product's.
//
// The figures are printed and not judged: docs/availability.md has those of a quiet
// machine.
func TestSwapTime(t *testing.T) {
	const serving = "/run/serving"
	p := newPair(t, pair.Config{Service: oneAddress, StartPrim: "echo > " + serving, StopPrim: "rm -f " + serving})
	for _, n := range p.Nodes {
		answering(t, n.Host, serving)
	}
	within(t, patience, p.Start)
	bare := watchReach(t, p.Client, answerPort, vip4)
	seen := watchServed(t, p.Client, answerPort, true, vip4)
	bare.addrs, seen.addrs = []string{vip4}, []string{vip4}

	var served, reached []time.Duration
	steps := map[string][]time.Duration{}
	n := rounds(t, 2, 40)
	for i := range n {
		old := i % 2
		from := time.Now()
		within(t, patience, func(ctx context.Context) error { return p.Nodes[old].Do(ctx, "swap") })
		s := &scenario{Pair: p, t: t}
		if old == 0 {
			s.await("SECOND", "PRIM")
		} else {
			s.await("PRIM", "SECOND")
		}
		served, reached = append(served, seen.gaps(t, "", from)), append(reached, bare.gaps(t, "", from))
		swapSteps(t, p, old, from, steps)
	}
	for what, all := range map[string][]time.Duration{"served": served, "reached": reached} {
		slices.Sort(all)
		t.Logf("not %s for: median %v, least %v, most %v of %d swaps", what, ms(all[len(all)/2]), ms(all[0]), ms(all[len(all)-1]), len(all))
	}
	t.Logf("after the command, by the logs of both hosts, medians of the steps:\n%s", medians(steps, n))
}

func ms(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

var swapVaries = regexp.MustCompile(` after [0-9.]+(µs|ms|s)\b`)

// swapSteps adds to steps when each line of a swap was logged, since the command.
func swapSteps(t *testing.T, p *pair.Pair, old int, from time.Time, steps map[string][]time.Duration) {
	t.Helper()
	var begin time.Time
	for _, i := range []int{old, 1 - old} {
		who := "old"
		if i != old {
			who = "new"
		}
		var out string
		within(t, patience, func(ctx context.Context) (err error) {
			out, err = p.Nodes[i].Skfs(ctx, "log", "-m", pair.Module, "-A", "-l", "en", "-s", "200")
			return err
		})
		seen := map[string]int{}
		for line := range strings.Lines(out) {
			f := strings.SplitN(strings.TrimSpace(line), " | ", 4)
			at, err := time.ParseInLocation("2006-01-02 15:04:05.000000", strings.TrimPrefix(f[0], "| "), time.Local)
			if err != nil || len(f) < 4 || at.Before(from) {
				continue
			}
			if begin.IsZero() {
				begin = at
			}
			step := who + "  " + swapVaries.ReplaceAllString(f[3], "")
			if seen[step]++; seen[step] > 1 {
				step += fmt.Sprintf(" (%d)", seen[step])
			}
			steps[step] = append(steps[step], at.Sub(begin))
		}
	}
}

// medians is the table of the steps that most of n swaps had.
func medians(steps map[string][]time.Duration, n int) string {
	type step struct {
		name string
		at   time.Duration
	}
	var all []step
	for name, at := range steps {
		if slices.Sort(at); 2*len(at) > n {
			all = append(all, step{name, at[len(at)/2]})
		}
	}
	slices.SortFunc(all, func(a, b step) int { return int(a.at - b.at) })
	var b strings.Builder
	for _, s := range all {
		fmt.Fprintf(&b, "%8.1f ms  %s\n", float64(s.at.Microseconds())/1000, s.name)
	}
	return b.String()
}

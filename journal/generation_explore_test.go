package journal

import (
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strconv"
	"testing"
)

// canonical renames versions, generations and checkpoints by their order, so that
// histories that come to the same are one.
func (w *mWorld) canonical() mWorld {
	c := *w
	c.r = nil
	var times, nums, gens [48]uint64
	nt, nn, ng := 0, 0, 0
	each := func(time func(*uint16), second func(*Time), num func(*uint64), gen func(*Generation)) {
		std := func(s *Standing) {
			gen(&s.Current)
			gen(&s.Base)
			for i := range s.History {
				gen(&s.History[i])
			}
			num(&s.Checkpoint)
			num(&s.Noted)
			second(&s.At)
		}
		for i := range c.h {
			h := &c.h[i]
			for b := range h.mem {
				time(&h.mem[b])
				time(&h.disk[b])
				time(&h.saved.data[b])
			}
			for q := range h.queue {
				time(&h.queue[q].version)
			}
			for _, t := range []*uint16{&h.seq, &h.own, &h.got, &h.saved.seq, &h.saved.own, &h.saved.got} {
				time(t)
			}
			std(&h.std)
			std(&h.saved.std)
		}
		time(&c.at)
		num(&c.num)
	}
	put := func(list *[48]uint64, n *int, v uint64) {
		if v != 0 && !slices.Contains(list[:*n], v) {
			list[*n] = v
			*n++
		}
	}
	each(func(t *uint16) { put(&times, &nt, uint64(*t)) }, func(t *Time) { put(&times, &nt, uint64(t.Sec)) },
		func(n *uint64) { put(&nums, &nn, *n) }, func(g *Generation) { put(&gens, &ng, uint64(*g)) })
	slices.Sort(times[:nt])
	slices.Sort(nums[:nn])
	index := func(list *[48]uint64, n int, v uint64) int { return slices.Index(list[:n], v) + 1 }
	each(func(t *uint16) { *t = uint16(index(&times, nt, uint64(*t))) }, func(t *Time) { t.Sec = int64(index(&times, nt, uint64(t.Sec))) },
		func(n *uint64) { *n = uint64(index(&nums, nn, *n)) }, func(g *Generation) { *g = Generation(index(&gens, ng, uint64(*g))) })
	c.clock, c.gens = uint16(nt), Generation(ng)
	return c
}

// after plays events and returns what they lead to, with the bounds untouched.
func after(w mWorld, events ...string) mWorld {
	for _, name := range events {
		w.faults, w.writes, w.admissions = 0, 0, 0
		all := w.events(bounds{faults: 9, writes: 9, admissions: 9, backups: true})
		i := slices.IndexFunc(all, func(e mEvent) bool { return fmt.Sprintf("%d %s", e.host, e.name) == name })
		if i < 0 {
			w.fail("%q cannot happen now", name)
			return w
		}
		if all[i].do(&w); w.bad != "" {
			return w
		}
	}
	w.faults, w.writes, w.admissions = 0, 0, 0
	return w
}

// explore walks all histories from start and returns the first that is wrong, of
// the shortest.
func explore(start mWorld, b bounds) (states, joins int, trail []string, bad string) {
	type node struct {
		parent int32
		event  mEvent
	}
	if start.bad != "" {
		return 0, 0, []string{"on the way to the start"}, start.bad
	}
	seed := maphash.MakeSeed()
	seen := map[uint64]bool{maphash.Comparable(seed, start.canonical()): true}
	nodes := []node{{parent: -1}}
	type open struct {
		w mWorld
		n int32
	}
	level := []open{{start, 0}}
	for range b.depth {
		var next []open
		for _, o := range level {
			for _, e := range o.w.events(b) {
				w := o.w
				e.do(&w)
				if e.name == "admits the other" {
					joins++
				}
				if w.bad != "" {
					for e, n := e, o.n; ; e, n = nodes[n].event, nodes[n].parent {
						if e.do != nil {
							trail = append(trail, fmt.Sprintf("%d %s", e.host, e.name))
						}
						if n < 0 {
							break
						}
					}
					slices.Reverse(trail)
					return len(seen), joins, trail, w.bad
				}
				c := w.canonical()
				key := maphash.Comparable(seed, c)
				if seen[key] {
					continue
				}
				seen[key] = true
				c.r = w.r
				nodes = append(nodes, node{o.n, e})
				next = append(next, open{c, int32(len(nodes) - 1)})
			}
		}
		level = next
	}
	return len(seen), joins, nil, ""
}

type walk struct {
	name  string
	start mWorld
	b     bounds
}

// walks are where the walks begin, and how far they go. JOURNAL_DEPTH makes all
// of them longer by so many events.
func walks(t *testing.T, r *rules) []walk {
	fresh := mWorld{r: r}
	// Two hosts in sync, the first of them primary.
	pair := after(fresh, "0 made primary", "0 goes alone", "0 write 0 alone", "0 admits the other", "0 copy complete",
		"1 records that it is in sync", "0 learns that the second is in sync")
	checkpoint := []string{"0 write 0 in sync", "0 begins a checkpoint", "0 second flushed", "0 primary clears", "0 primary flushed", "0 second clears"}
	offered := after(pair, "1 killed", "0 goes alone", "0 write 0 alone", "0 admits the other", "0 copy complete")
	all := []walk{
		{"an end of a copy that is only offered", offered, bounds{depth: 6, faults: 2, writes: 2, admissions: 3}},
		{"an end of a copy that the primary does not know", after(offered, "1 records that it is in sync"), bounds{depth: 7, faults: 1, writes: 2, admissions: 2}},
		{"two power cuts that are mended", after(pair, "0 power cut, blocks 00 kept", "1 power cut, blocks 00 kept", "0 made primary",
			"0 admits the other", "0 copy complete", "1 records that it is in sync", "0 learns that the second is in sync"),
			bounds{depth: 5, faults: 2, writes: 2, admissions: 2}},
		{"a backup of the primary, older than the notes", after(after(pair, "0 is saved"), checkpoint...),
			bounds{depth: 7, faults: 1, writes: 1, admissions: 3, backups: true}},
		{"a backup of the second, older than the notes", after(after(pair, "1 is saved"), checkpoint...),
			bounds{depth: 7, faults: 1, writes: 1, admissions: 3, backups: true}},
		{"a backup of the second, a generation old", after(after(after(pair, "1 is saved"), checkpoint...),
			"1 killed", "0 goes alone", "0 write 1 alone", "0 admits the other", "0 copy complete", "1 records that it is in sync", "0 learns that the second is in sync"),
			bounds{depth: 6, faults: 1, writes: 2, admissions: 3, backups: true}},
		{"a backup of the primary alone", after(pair, "1 killed", "0 goes alone", "0 is saved"),
			bounds{depth: 8, faults: 1, writes: 1, admissions: 3, backups: true}},
		{"a change in sync", after(pair, "0 write 0 in sync"), bounds{depth: 5, faults: 2, writes: 1, admissions: 2}},
		{"amid a checkpoint", after(pair, "0 write 0 in sync", "0 begins a checkpoint", "0 second flushed"),
			bounds{depth: 7, faults: 2, writes: 1, admissions: 3}},
		{"hosts that never met", fresh, bounds{depth: 8, faults: 2, writes: 3, admissions: 5}},
		{"any backup", pair, bounds{depth: 8, faults: 1, writes: 1, admissions: 4, backups: true}},
		{"much may happen", pair, bounds{depth: 7, faults: 3, writes: 3, admissions: 4}},
		{"little may happen, but for long", pair, bounds{depth: 10, faults: 2, writes: 1, admissions: 3}},
	}
	if v := os.Getenv("JOURNAL_DEPTH"); v != "" {
		more, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("JOURNAL_DEPTH: %v", err)
		}
		for i := range all {
			all[i].b.depth += more
		}
	}
	return all
}

func TestDecideInEveryHistory(t *testing.T) {
	r := theRules()
	for _, w := range walks(t, &r) {
		t.Run(w.name, func(t *testing.T) {
			states, joins, trail, bad := explore(w.start, w.b)
			if bad != "" {
				for _, e := range trail {
					t.Log(e)
				}
				t.Fatal(bad)
			}
			t.Logf("%d states, %d joins", states, joins)
		})
	}
}

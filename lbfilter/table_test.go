package lbfilter

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestNext walks through random changes of the members and holds, at each step, that
// every bucket that has moved from a member that is there has it as Prev, that Prev
// is always somebody who is there and not the owner, and stays until it is settled.
func TestNext(t *testing.T) {
	p, err := NewPolicy(Invisible, virtuals, []Group{{Name: "one"}, {Name: "two", Powers: map[string]int{"node0": 3, "node1": 1, "node2": 0, "node3": 2}}})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		var was []Ownership
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			var members []Member
			for n := range 5 {
				switch rapid.IntRange(0, 4).Draw(t, "member") {
				case 0:
				case 1:
					members = append(members, Member{Number(n), fmt.Sprintf("node%d", n), true})
				default:
					members = append(members, Member{Number(n), fmt.Sprintf("node%d", n), false})
				}
			}
			there := func(n Number) bool {
				return slices.ContainsFunc(members, func(m Member) bool { return m.Number == n })
			}
			next := p.Next(was, members)
			for g := range next {
				group := p.groups[g]
				willing := slices.ContainsFunc(members, func(m Member) bool { return !m.Draining && group.Power(m.Name) > 0 })
				for b, owner := range next[g].Owner {
					prev := next[g].Prev[b]
					for _, m := range members {
						if m.Number == owner && (group.Power(m.Name) == 0 || m.Draining && willing) {
							t.Fatalf("group %d: bucket %d is of %s", g, b, m.Name)
						}
					}
					if owner != None && !there(owner) || prev != None && (!there(prev) || prev == owner) {
						t.Fatalf("group %d: bucket %d is of %d after %d, members %v", g, b, owner, prev, members)
					}
					if was == nil {
						continue
					}
					before, beforePrev := was[g].Owner[b], was[g].Prev[b]
					switch {
					case owner != before && there(before):
						if prev != before {
							t.Fatalf("group %d: bucket %d has moved from %d to %d, prev %d", g, b, before, owner, prev)
						}
					case there(beforePrev) && beforePrev != owner:
						if prev != beforePrev {
							t.Fatalf("group %d: bucket %d has lost prev %d, has %d", g, b, beforePrev, prev)
						}
					case prev != None:
						t.Fatalf("group %d: bucket %d has prev %d out of nothing", g, b, prev)
					}
				}
			}
			for g := range next {
				if rapid.Bool().Draw(t, "settle") {
					n := Number(rapid.IntRange(0, 4).Draw(t, "who"))
					var held Bitmap
					held.Set(uint8(rapid.IntRange(0, 255).Draw(t, "held")))
					next[g].Settle(n, held)
					left := next[g].Prev.Bitmap(n)
					for b := range Buckets {
						if left.Has(uint8(b)) && !held.Has(uint8(b)) {
							t.Fatalf("group %d: bucket %d is not settled", g, b)
						}
					}
				}
			}
			was = next
		}
	})
}

// TestBusyStay: what has to move is taken from what nobody else has connections of.
func TestBusyStay(t *testing.T) {
	p, err := NewPolicy(Invisible, virtuals, nil)
	if err != nil {
		t.Fatal(err)
	}
	two := []Member{{Number: 0, Name: "a"}, {Number: 1, Name: "b"}}
	three := append(slices.Clone(two), Member{Number: 2, Name: "c"})
	four := append(slices.Clone(three), Member{Number: 3, Name: "d"})
	was := p.Next(p.Next(nil, two), three)
	next := p.Next(was, four)
	for b, prev := range was[0].Prev {
		if prev != None && next[0].Owner[b] != was[0].Owner[b] && next[0].Owner[b] != None {
			if had := was[0].Owner.Bitmap(was[0].Owner[b]).Len(); had > 128 {
				t.Errorf("bucket %d moves though %d may have connections of it", b, prev)
			}
		}
	}
	// The third has buckets only that others had: of those it must give.
	moved := 0
	for b := range Buckets {
		if was[0].Owner[b] != 2 && was[0].Prev[b] != None && next[0].Owner[b] != was[0].Owner[b] {
			moved++
		}
	}
	if moved != 0 {
		t.Errorf("%d buckets of the first two moved though they were not settled", moved)
	}
}

func TestLayout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := &Table{Epoch: rapid.Uint64().Draw(t, "epoch"), Version: rapid.Uint64().Draw(t, "version"), Groups: make([]Ownership, rapid.IntRange(0, MaxGroups+1).Draw(t, "groups"))}
		for g := range table.Groups {
			table.Groups[g] = Ownership{Owner: Nobody(), Prev: Nobody()}
			table.Groups[g].Owner[g] = Number(g % MaxMembers)
			table.Groups[g].Prev[255-g] = Number(g % MaxMembers)
		}
		for i := range table.MACs {
			table.MACs[i] = MAC{2, byte(i), rapid.Byte().Draw(t, "mac")}
		}
		got, err := tableOf(table.kernelBytes())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(table, got); diff != "" {
			t.Fatal(diff)
		}
	})
	b := (&Table{}).kernelBytes()
	b[0]++
	if _, err := tableOf(b); err == nil {
		t.Error("a table of another format is read")
	}
}

func TestLater(t *testing.T) {
	for _, c := range []struct {
		a, b Table
		want bool
	}{
		{Table{Epoch: 1, Version: 2}, Table{Epoch: 1, Version: 1}, true},
		{Table{Epoch: 1, Version: 1}, Table{Epoch: 1, Version: 1}, false},
		{Table{Epoch: 2, Version: 0}, Table{Epoch: 1, Version: 9}, true},
		{Table{Epoch: 1, Version: 9}, Table{Epoch: 2, Version: 0}, false},
	} {
		if got := c.a.Later(&c.b); got != c.want {
			t.Errorf("%d.%d later than %d.%d: %v", c.a.Epoch, c.a.Version, c.b.Epoch, c.b.Version, got)
		}
	}
}

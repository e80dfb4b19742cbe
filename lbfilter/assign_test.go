package lbfilter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawShares are members with different numbers and names; some have power 0.
func drawShares(t *rapid.T) []Share {
	n := rapid.IntRange(0, MaxMembers).Draw(t, "members")
	numbers := rapid.Permutation(numbersUpTo(MaxMembers)).Draw(t, "numbers")
	limit := rapid.SampledFrom([]int{1, 3, 10, 1000, MaxPower}).Draw(t, "limit")
	var all []Share
	for i := range n {
		power := rapid.IntRange(0, limit).Draw(t, "power")
		all = append(all, Share{numbers[i], fmt.Sprintf("node%d", i), power})
	}
	return all
}

func numbersUpTo(n int) []Number {
	all := make([]Number, n)
	for i := range all {
		all[i] = Number(i)
	}
	return all
}

func drawOwners(t *rapid.T) *Owners {
	if rapid.Bool().Draw(t, "cold") {
		return nil
	}
	var o Owners
	spread := rapid.IntRange(1, MaxMembers).Draw(t, "spread")
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	for b := range o {
		o[b] = Number(r.IntN(spread))
		if r.IntN(20) == 0 {
			o[b] = None
		}
	}
	return &o
}

// TestAssign holds what Assign promises for any members and any table before.
func TestAssign(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, was := drawShares(t), drawOwners(t)
		total := 0
		for _, m := range members {
			total += m.Power
		}
		o := Assign(members, was)

		// Shares are exact: no bucket is without owner, nobody differs from his part by
		// a whole bucket but for the sake of those who have one only.
		small := 0
		for _, m := range members {
			if m.Power > 0 && Buckets*m.Power < total {
				small++
			}
		}
		sum := 0
		for _, m := range members {
			got := o.Bitmap(m.Number).Len()
			sum += got
			switch {
			case m.Power == 0 && got != 0:
				t.Fatalf("%s has power 0 and %d buckets", m.Name, got)
			case m.Power > 0 && got == 0:
				t.Fatalf("%s has power %d and no bucket", m.Name, m.Power)
			case m.Power == 0:
			case got*total < Buckets*m.Power-total*(1+small) || got*total > Buckets*m.Power+total:
				t.Fatalf("%s has %d buckets, its part is %d·%d/%d", m.Name, got, Buckets, m.Power, total)
			}
		}
		if total > 0 && sum != Buckets || total == 0 && o != Nobody() {
			t.Fatalf("%d buckets have an owner", sum)
		}

		// The order in which members are seen does not matter.
		if other := Assign(rapid.Permutation(members).Draw(t, "order"), was); other != o {
			t.Fatal("another order of the members gives another table")
		}
		// Nothing moves twice.
		if again := Assign(members, &o); again != o {
			t.Fatal("the same members give another table")
		}
		// Movement is minimal: no member gets a bucket while it gives one away, and only
		// what has no owner or is above the quota moves.
		if was == nil {
			return
		}
		moved, must := 0, 0
		for b := range o {
			if o[b] != was[b] {
				moved++
			}
		}
		kept := 0
		for _, m := range members {
			kept += min(was.Bitmap(m.Number).Len(), o.Bitmap(m.Number).Len())
		}
		must = sum - kept
		if total > 0 && moved != must {
			t.Fatalf("%d buckets moved, %d had to", moved, must)
		}
	})
}

// TestAssignKnown pins results: members of other releases must come to the same.
func TestAssignKnown(t *testing.T) {
	names := func(powers ...int) (all []Share) {
		for i, p := range powers {
			all = append(all, Share{Number(i), fmt.Sprintf("node%d", i+1), p})
		}
		return all
	}
	for _, c := range []struct {
		members []Share
		counts  []int
		hash    uint32
	}{
		{names(1), []int{256}, 0xa56e7c22},
		{names(1, 1), []int{128, 128}, 0x6c0da888},
		{names(1, 1, 1), []int{86, 85, 85}, 0xbfb66f3b},
		{names(3, 1, 1), []int{154, 51, 51}, 0x818f3779},
		{names(1, 0, 1000), []int{1, 0, 255}, 0xa7b2932f},
		{names(2, 3, 5, 7), []int{30, 45, 75, 106}, 0x21d3780f},
	} {
		o := Assign(c.members, nil)
		var counts []int
		text := make([]byte, Buckets)
		for b, n := range o {
			text[b] = byte(n)
		}
		for _, m := range c.members {
			counts = append(counts, o.Bitmap(m.Number).Len())
		}
		if !slices.Equal(counts, c.counts) || jhash(text, 0) != c.hash {
			t.Errorf("powers of %v: %v buckets and table %#x, expected %v and %#x", c.members, counts, jhash(text, 0), c.counts, c.hash)
		}
	}
}

// TestFourthOfThree: 64 buckets move, and come back when it leaves.
func TestFourthOfThree(t *testing.T) {
	var members []Share
	for i := range 4 {
		members = append(members, Share{Number(i), fmt.Sprintf("node%d", i), 1})
	}
	three := Assign(members[:3], nil)
	four := Assign(members, &three)
	back := Assign(members[:3], &four)
	moved := func(a, b Owners) (n int) {
		for i := range a {
			if a[i] != b[i] {
				n++
			}
		}
		return n
	}
	if n := moved(three, four); n != 64 {
		t.Errorf("a fourth member moves %d buckets, expected 64", n)
	}
	if n := moved(four, back); n != 64 {
		t.Errorf("its leaving moves %d buckets, expected 64", n)
	}
}

func TestBitmapString(t *testing.T) {
	var o Owners
	for b := range o {
		o[b] = Number(1 - b/128)
	}
	if got, want := o.Bitmap(1).String(), "ffffffff:ffffffff:ffffffff:ffffffff:00000000:00000000:00000000:00000000"; got != want {
		t.Errorf("bitmap %s, expected %s", got, want)
	}
	var m Bitmap
	m.Set(0)
	m.Set(33)
	if got, want := m.String(), "00000001:00000002:00000000:00000000:00000000:00000000:00000000:00000000"; got != want {
		t.Errorf("bitmap %s, expected %s", got, want)
	}
}

package reintegrate

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// TestFilterNames is the table of doc.go: every operation on names, by where its
// directories and its objects are in the pass.
func TestFilterNames(t *testing.T) {
	const ex = unix.RENAME_EXCHANGE
	l, l2, n, n2 := fid(1), fid(2), fid(3), fid(4)
	ids := map[string]journal.FileID{
		"new": fid(9), "settled": fid(10), "named": fid(11), "passing": fid(12), "pending": fid(13), "hidden": fid(14),
		"nameless": fid(15), "dirNamed": fid(16), "dirListed": fid(17), "": {},
	}
	for _, c := range []struct {
		kind     journal.Kind
		flags    uint32
		from, to journal.FileID
		x, v     string // states of the object and of what is at the target
		want     string
	}{
		{journal.KindCreate, 0, l, l, "new", "", "op"},
		{journal.KindCreate, 0, n, n, "new", "", ""},
		{journal.KindTmpfile, 0, l, l, "new", "", "op"},

		{journal.KindLink, 0, l, l, "settled", "", "op"},
		{journal.KindLink, 0, l, l, "named", "", "op"},
		{journal.KindLink, 0, l, l, "passing", "", "op"},
		{journal.KindLink, 0, l, l, "nameless", "", "op"},
		{journal.KindLink, 0, l, l, "pending", "", "put pending"},
		{journal.KindLink, 0, n, n, "settled", "", ""},
		{journal.KindLink, 0, n, n, "pending", "", ""},
		{journal.KindLink, 0, n, n, "nameless", "", "keep"},

		{journal.KindUnlink, 0, l, l, "settled", "", "op"},
		{journal.KindUnlink, 0, l, l, "named", "", "op"},
		{journal.KindUnlink, 0, l, l, "passing", "", "op"},
		{journal.KindUnlink, 0, l, l, "hidden", "", "take hidden"},
		{journal.KindUnlink, 0, n, n, "hidden", "", ""},
		{journal.KindUnlink, 0, n, n, "pending", "", ""},
		{journal.KindRmdir, 0, l, l, "dirListed", "", "op"},
		{journal.KindRmdir, 0, l, l, "dirNamed", "", "take dirNamed"},
		{journal.KindRmdir, 0, n, n, "dirListed", "", ""},

		{journal.KindRename, 0, l, l2, "settled", "", "op"},
		{journal.KindRename, 0, l, l2, "dirNamed", "", "op"},
		{journal.KindRename, 0, l, l2, "passing", "settled", "op"},
		{journal.KindRename, 0, l, l2, "settled", "hidden", "take hidden, op without victim"},
		{journal.KindRename, 0, l, l2, "dirListed", "dirNamed", "take dirNamed, op without victim"},
		{journal.KindRename, 0, l, l2, "settled", "settled", ""}, // two names of one object
		{journal.KindRename, 0, l, n, "settled", "settled", ""},
		{journal.KindRename, 0, l, n, "settled", "", "take settled"},
		{journal.KindRename, 0, l, n, "dirListed", "pending", "take dirListed"},
		{journal.KindRename, 0, n, l, "pending", "", "put pending"},
		{journal.KindRename, 0, n, l, "settled", "hidden", "put settled"},
		{journal.KindRename, 0, n, l, "dirListed", "dirNamed", "put dirListed"},
		{journal.KindRename, 0, n, n2, "pending", "pending", ""},
		{journal.KindRename, 0, n, n2, "settled", "settled", ""},
		{journal.KindRename, ex, l, l2, "settled", "hidden", "op"},
		{journal.KindRename, ex, l, l2, "dirNamed", "dirListed", "op"},
		{journal.KindRename, ex, l, n, "settled", "pending", "take settled, put pending"},
		{journal.KindRename, ex, n, l, "pending", "settled", "put pending"},
		{journal.KindRename, ex, n, n2, "pending", "settled", ""},

		{journal.KindSetXattr, 0, l, l, "settled", "", "op"},
		{journal.KindSetXattr, 0, l, l, "passing", "", ""},
		{journal.KindTimes, 0, l, l, "dirListed", "", ""},
		{journal.KindFsync, 0, l, l, "passing", "", ""},
		{journal.KindFsync, 0, l, l, "settled", "", "op"},
		{journal.KindRelease, 0, l, l, "named", "", "op"},
		{journal.KindRelease, 0, l, l, "pending", "", ""},
		{journal.KindMark, 0, l, l, "", "", "op"},
	} {
		tb := newTable(Full)
		tb.objects = map[journal.FileID]state{
			l: settled, l2: dirListed, n2: dirNamed,
			ids["settled"]: settled, ids["named"]: named, ids["hidden"]: settled, ids["nameless"]: settled,
			ids["dirNamed"]: dirNamed, ids["dirListed"]: dirListed,
		}
		tb.begin(ids["passing"], newRegion(100))
		tb.elsewhere[ids["hidden"]] = struct{}{}
		tb.nameless[ids["nameless"]] = struct{}{}
		op := &journal.Op{Kind: c.kind, Flags: c.flags, ID: ids[c.x], ID2: ids[c.v], Parent: c.from, Name: "from"}
		if c.kind == journal.KindRename {
			op.Parent2, op.Name2 = c.to, "to"
		}
		name := fmt.Sprintf("%s flags %d, %s to %s, %s over %q", c.kind, c.flags, c.from, c.to, c.x, c.v)
		if got := show(tb.decide(op), op, ids); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		wantState := map[string]state{"new": settled}[c.x]
		if c.want == "op" && c.x == "new" && tb.get(op.ID) != wantState {
			t.Errorf("%s: born %d", name, tb.get(op.ID))
		}
		if c.kind == journal.KindLink && !tb.hidden(op.ID) {
			t.Errorf("%s: may have names that are pending", name)
		}
	}
}

func fid(b byte) journal.FileID { return journal.FileID{15: b} }

func show(v verdict, op *journal.Op, ids map[string]journal.FileID) string {
	var s []string
	who := func(n *nameOf) string {
		for name, id := range ids {
			if id == n.id {
				return name
			}
		}
		return "?"
	}
	at := func(n *nameOf) string {
		if n.dir == op.Parent && n.name == op.Name || n.dir == op.Parent2 && n.name == op.Name2 {
			return who(n)
		}
		return "elsewhere " + who(n)
	}
	if v.take != nil {
		s = append(s, "take "+at(v.take))
	}
	if v.put != nil {
		s = append(s, "put "+at(v.put))
	}
	if v.keep {
		s = append(s, "keep")
	}
	for _, f := range v.forward {
		switch {
		case f == op:
			s = append(s, "op")
		case f.ID2.IsZero() && !op.ID2.IsZero():
			s = append(s, "op without victim")
		default:
			s = append(s, "?")
		}
	}
	return strings.Join(s, ", ")
}

// TestFilterRanges: what of a change of bytes is forwarded, by brute force over
// every frontier, end, offset and length up to a bound.
func TestFilterRanges(t *testing.T) {
	const bound = 9
	id := fid(1)
	for frontier := int64(0); frontier < bound; frontier++ {
		for end := int64(0); end < bound; end++ {
			for off := int64(0); off < bound; off++ {
				for n := int64(1); n < bound; n++ {
					tb := newTable(Full)
					r := newRegion(end)
					tb.begin(id, r)
					tb.advance(r, frontier)
					data := make([]byte, n)
					for i := range data {
						data[i] = byte(off) + byte(i)
					}
					for _, op := range []*journal.Op{
						{Kind: journal.KindWrite, ID: id, Off: off, Data: data},
						{Kind: journal.KindFallocate, ID: id, Off: off, Len: n},
					} {
						var got, want [2 * bound]bool
						for i := off; i < off+n; i++ {
							want[i] = i < frontier || i >= end
						}
						for _, f := range tb.decide(op).forward {
							to := f.Off + f.Len + int64(len(f.Data))
							for i := f.Off; i < to; i++ {
								if got[i] || f.Data != nil && f.Data[i-f.Off] != byte(i) {
									t.Fatalf("%s frontier %d end %d off %d len %d: byte %d is twice there, or wrong", op.Kind, frontier, end, off, n, i)
								}
								got[i] = true
							}
						}
						if got != want {
							t.Fatalf("%s frontier %d end %d off %d len %d: %v, want %v", op.Kind, frontier, end, off, n, got, want)
						}
					}
				}
			}
		}
	}
}

// TestFilterSize: a truncation of a file in pass is forwarded, alone, and nothing
// beyond it is pending any more.
func TestFilterSize(t *testing.T) {
	tb, id := newTable(Full), fid(1)
	tb.begin(id, newRegion(100))
	op := &journal.Op{Kind: journal.KindSetAttr, ID: id, Valid: journal.SetSize | journal.SetMode | journal.SetMtime, Off: 40}
	if f := tb.decide(op).forward; len(f) != 1 || f[0].Valid != journal.SetSize || f[0].Off != 40 {
		t.Fatalf("forwarded %+v", f)
	}
	beyond := &journal.Op{Kind: journal.KindWrite, ID: id, Off: 40, Data: []byte("x")}
	below := &journal.Op{Kind: journal.KindWrite, ID: id, Off: 39, Data: []byte("x")}
	if f := tb.decide(beyond).forward; len(f) != 1 {
		t.Error("a write beyond the new end is not forwarded")
	}
	if f := tb.decide(below).forward; len(f) != 0 {
		t.Error("a write to pending bytes is forwarded")
	}
	if f := tb.decide(&journal.Op{Kind: journal.KindSetAttr, ID: id, Valid: journal.SetMode}).forward; len(f) != 0 {
		t.Error("attributes of a file in pass are forwarded")
	}
}

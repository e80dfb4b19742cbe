package reintegrate

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// differences of two trees, at most some.
func differences(a, b *tree) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	var ds []string
	say := func(format string, args ...any) { ds = append(ds, fmt.Sprintf(format, args...)) }
	seen := map[*node]bool{}
	same := func(path string, x, y *node) {
		if x.id != y.id {
			say("%s: id %s, %s", path, x.id, y.id)
		}
		if x.mode != y.mode || x.uid != y.uid || x.gid != y.gid || x.rdev != y.rdev || x.target != y.target || x.nlink != y.nlink {
			say("%s: mode %o uid %d nlink %d, %o %d %d", path, x.mode, x.uid, x.nlink, y.mode, y.uid, y.nlink)
		}
		if !bytes.Equal(x.data, y.data) {
			i := 0
			for i < len(x.data) && i < len(y.data) && x.data[i] == y.data[i] {
				i++
			}
			say("%s (%s): content of %d and %d bytes differs at %d", path, x.id, len(x.data), len(y.data), i)
		}
		if !maps.Equal(x.xattrs, y.xattrs) {
			say("%s: xattrs %v, %v", path, x.xattrs, y.xattrs)
		}
		if x.mtime != y.mtime {
			say("%s (%s): mtime %v, %v", path, x.id, x.mtime, y.mtime)
		}
	}
	short := func(path string) string { return path[max(0, len(path)-40):] }
	var walk func(path string, x, y *node)
	walk = func(path string, x, y *node) {
		if seen[x] {
			return
		}
		seen[x] = true
		same(short(path), x, y)
		for name, k := range x.names {
			if l := y.names[name]; l == nil {
				say("%s/%s (%s): missing", short(path), name, k.id)
			} else {
				walk(path+"/"+name, k, l)
			}
		}
		for name, l := range y.names {
			if x.names[name] == nil {
				say("%s/%s (%s): too much", short(path), name, l.id)
			}
		}
	}
	walk("", a.root, b.root)
	for id, x := range a.byID {
		if x.tmp {
			if y := b.byID[id]; y == nil {
				say("nameless %s: missing", id)
			} else {
				same("nameless", x, y)
			}
		}
	}
	if len(b.hold.names) > 0 {
		say("%d names are still held", len(b.hold.names))
	}
	if len(ds) > 12 {
		ds = append(ds[:12], "...")
	}
	return ds
}

func (t *tree) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	var walk func(in string, n *node)
	walk = func(in string, n *node) {
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			k := n.names[name]
			fmt.Fprintf(&b, "%s%s %s %o %d\n", in, name, k.id, k.mode, len(k.data))
			walk(in+"  ", k)
		}
	}
	walk("", t.root)
	return b.String()
}

package reintegrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/skfs/skfs/journal"
)

// namesAtOnce bounds the names that are looked at under one lock of a directory.
const namesAtOnce = 64

// begin compares the root of a tree and queues it.
func (v *Verification) begin(ctx context.Context, tree uint8) error {
	id := journal.RootID(tree)
	e, err := v.trees[tree].Find(id)
	if err != nil {
		return fmt.Errorf("root of tree %d: %w", tree, err)
	}
	wait, err := v.askObjects(tree, id)
	if err != nil {
		return err
	}
	there, err := wait()
	if err != nil {
		return fmt.Errorf("root of tree %d: %w", tree, err)
	}
	e.ID = id
	return v.object(ctx, verifyDir{tree: tree}, &e, &there[0], "")
}

// walk compares directories as they come.
func (v *Verification) walk(ctx context.Context) error {
	for {
		d, ok := v.dirs.take()
		if !ok {
			return context.Cause(ctx)
		}
		err := v.directory(ctx, d)
		v.dirs.done()
		if err != nil {
			v.dirs.close()
			return fmt.Errorf("directory %s: %w", d.id, err)
		}
	}
}

// directory compares the names of d, and what they name but for its content.
func (v *Verification) directory(ctx context.Context, d verifyDir) error {
	src := v.trees[d.tree]
	mine, err := src.List(d.id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	theirs, err := v.list(d)
	if err != nil {
		return v.unlisted(ctx, d, err)
	}
	v.directories.Add(1)
	v.meter.listed()
	var suspects []string
	for i := range mine {
		e := &mine[i]
		t := theirs[e.Name]
		delete(theirs, e.Name)
		if t == nil || !sameName(e, t) {
			suspects = append(suspects, e.Name)
			continue
		}
		if err := v.object(ctx, d, e, t, e.Name); err != nil {
			return err
		}
	}
	for name := range theirs {
		suspects = append(suspects, name)
	}
	for len(suspects) > 0 {
		n := min(len(suspects), namesAtOnce)
		if err := v.namesAgain(ctx, d, suspects[:n]); err != nil {
			return err
		}
		suspects = suspects[n:]
	}
	return nil
}

// sameName says whether a name is that of the same object on both hosts.
func sameName(mine *Entry, theirs *have) bool {
	return theirs.there && theirs.ID == mine.ID && !mine.ID.IsZero() && same(&theirs.Entry, mine)
}

// list asks for all names of a directory.
func (v *Verification) list(d verifyDir) (map[string]*have, error) {
	all := map[string]*have{}
	for after := ""; ; {
		var data []byte
		if after != "" {
			data = appendName(nil, after)
		}
		a, err := v.ask(d.tree, listPage, d.id, data)
		if err != nil {
			return nil, err
		}
		if data, err = answer(a); err != nil {
			return nil, err
		}
		page, more, err := parsePage(data)
		if err != nil {
			return nil, err
		}
		for i := range page {
			all[page[i].Name] = &page[i]
		}
		if !more {
			return all, nil
		}
		if last := page[len(page)-1].Name; last > after {
			after = last
		} else {
			return nil, fmt.Errorf("%w: a page of names that does not go on after %q", errPayload, after)
		}
	}
}

// unlisted finds out why SECOND could not list d. It may not have it yet; or what it
// has cannot be read, which is a difference.
func (v *Verification) unlisted(ctx context.Context, d verifyDir, why error) error {
	var e syscall.Errno
	if !errors.As(why, &e) { // the stream, or an answer that cannot be understood
		return why
	}
	diff := Difference{Tree: d.tree, Path: d.path, ID: d.id, What: WhatNames, Detail: "cannot be read on the secondary: " + e.Error()}
	if e == syscall.ENOENT {
		lacking := false
		err := v.trees[d.tree].Still(d.id, func() error {
			v.again.Add(1)
			if err := v.passed(ctx); err != nil {
				return err
			}
			a, err := v.ask(d.tree, listPage, d.id, nil)
			if err != nil {
				return err
			}
			if _, err = answer(a); errors.Is(err, syscall.ENOENT) {
				lacking, err = true, nil
			}
			return err
		})
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !lacking:
			v.dirs.push(d)
			return nil
		}
		diff.What, diff.Detail = WhatMissing, "the secondary does not have the directory"
	}
	return v.report(diff)
}

// askAgain asks for an object that is locked, after all that was sent before.
func (v *Verification) askAgain(ctx context.Context, tree uint8, id journal.FileID) (have, error) {
	v.again.Add(1)
	if err := v.passed(ctx); err != nil {
		return have{}, err
	}
	wait, err := v.askObjects(tree, id)
	if err != nil {
		return have{}, err
	}
	list, err := wait()
	if err != nil {
		return have{}, err
	}
	return list[0], nil
}

// namesAgain looks at names of d while they cannot change.
func (v *Verification) namesAgain(ctx context.Context, d verifyDir, names []string) error {
	src := v.trees[d.tree]
	var data []byte
	for _, name := range names {
		data = appendName(data, name)
	}
	mine := make([]*Entry, len(names))
	var theirs []have
	err := src.Still(d.id, func() error {
		v.again.Add(1)
		if err := v.passed(ctx); err != nil {
			return err
		}
		a, err := v.ask(d.tree, listNames, d.id, data)
		if err != nil {
			return err
		}
		for i, name := range names {
			switch e, err := src.Lookup(d.id, name); {
			case err == nil:
				mine[i] = &e
			case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.EXDEV): // a mount point is not replicated
				return err
			}
		}
		if data, err = answer(a); err == nil {
			theirs, err = parseHaves(data, len(names))
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for i, name := range names {
		e, t := mine[i], &theirs[i]
		diff := Difference{Tree: d.tree, Path: d.child(name), Dir: d.id}
		switch {
		case e == nil && !t.there:
			continue
		case e == nil:
			diff.What, diff.Detail = WhatExtra, "a "+typeName(t.Mode)
		case sameName(e, t):
			if err := v.object(ctx, d, e, t, name); err != nil {
				return err
			}
			continue
		case !t.there:
			diff.What, diff.ID, diff.Detail = WhatMissing, e.ID, "a "+typeName(e.Mode)
		default:
			diff.What, diff.ID, diff.Detail = WhatNames, e.ID, otherObject(e, t)
		}
		if err := v.report(diff); err != nil {
			return err
		}
		if e == nil {
			continue
		}
		// SECOND may have the object, with all that is below it, elsewhere.
		wait, err := v.askObjects(d.tree, e.ID)
		if err != nil {
			return err
		}
		list, err := wait()
		if err != nil {
			return err
		}
		if list[0].there && same(&list[0].Entry, e) {
			if err := v.object(ctx, d, e, &list[0], name); err != nil {
				return err
			}
		}
	}
	return nil
}

func otherObject(mine *Entry, theirs *have) string {
	switch {
	case mine.Type() != theirs.Type():
		return fmt.Sprintf("a %s, on the secondary a %s", typeName(mine.Mode), typeName(theirs.Mode))
	case mine.Target != theirs.Target:
		return fmt.Sprintf("a symlink to %q, on the secondary to %q", mine.Target, theirs.Target)
	case mine.Rdev != theirs.Rdev:
		return fmt.Sprintf("a device with another number: %#x, on the secondary %#x", mine.Rdev, theirs.Rdev)
	}
	return "another " + typeName(mine.Mode) + " on the secondary"
}

func typeName(mode uint32) string {
	switch mode & sIFMT {
	case sIFREG:
		return "file"
	case sIFDIR:
		return "directory"
	case sIFLNK:
		return "symlink"
	}
	return "special file"
}

// object compares what is known of an object from a name in d, the same on both
// hosts, and queues what is to be read of it.
func (v *Verification) object(ctx context.Context, d verifyDir, e *Entry, t *have, name string) error {
	src := v.trees[d.tree]
	isDir := e.Type() == sIFDIR
	if !isDir && e.Nlink > 1 && v.linked(e.ID) {
		return nil
	}
	x := verifyDir{id: e.ID, tree: d.tree}
	if name != "" {
		x.path = d.child(name)
	}
	xs, err := src.Xattrs(e.ID)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("xattrs of object %s: %w", e.ID, err)
	}
	f := verifyFile{verifyDir: x, size: max(e.Size, t.Size)}
	regular := e.Type() == sIFREG
	if unlike(e, t) != "" || hashXattrs(xs) != t.xattrs || regular && e.Size != t.Size {
		found, err := v.objectAgain(ctx, d, x, name)
		if err != nil || !found.there {
			return err
		}
		f.mine, f.theirs, f.size = found.size, found.Size, max(found.size, found.Size)
	}
	switch {
	case isDir:
		v.dirs.push(x)
	case regular && f.size == 0:
		v.regular.Add(1)
	case regular:
		v.meter.found(f.size)
		select {
		case v.files <- f:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	default:
		v.others.Add(1)
	}
	return nil
}

// unlike says what of the attributes differs.
func unlike(mine *Entry, theirs *have) string {
	var list []string
	if mine.Mode != theirs.Mode {
		list = append(list, fmt.Sprintf("mode %04o, on the secondary %04o", mine.Mode&^sIFMT, theirs.Mode&^sIFMT))
	}
	if mine.UID != theirs.UID || mine.GID != theirs.GID {
		list = append(list, fmt.Sprintf("owner %d:%d, on the secondary %d:%d", mine.UID, mine.GID, theirs.UID, theirs.GID))
	}
	if mine.Mtime != theirs.Mtime {
		list = append(list, fmt.Sprintf("modified at %d.%09d, on the secondary at %d.%09d", mine.Mtime.Sec, mine.Mtime.Nsec, theirs.Mtime.Sec, theirs.Mtime.Nsec))
	}
	return strings.Join(list, "; ")
}

// confirmed is what a look under the lock has found.
type confirmed struct {
	have                      // SECOND's; not there: the object is no more, or SECOND does not have it
	size                int64 // PRIM's
	attributes, missing bool
	detail              string
	xattrsDiffer        bool
}

// objectAgain looks at the attributes of x while they cannot change. A new object
// gets its lock only after it has its name, so if it seems to differ it is looked at
// once more under the lock of the directory as well.
func (v *Verification) objectAgain(ctx context.Context, d, x verifyDir, name string) (confirmed, error) {
	src := v.trees[x.tree]
	var c confirmed
	look := func() error {
		var err error
		if c.have, err = v.askAgain(ctx, x.tree, x.id); err != nil {
			return err
		}
		e, err := src.Find(x.id)
		if err != nil {
			return err
		}
		c.size = e.Size
		if c.missing = !c.there; c.missing {
			return nil
		}
		c.detail = unlike(&e, &c.have)
		c.attributes = c.detail != ""
		xs, err := src.Xattrs(x.id)
		c.xattrsDiffer = err == nil && hashXattrs(xs) != c.xattrs
		return err
	}
	err := src.Still(x.id, look)
	if err == nil && name != "" && (c.missing || c.attributes || c.xattrsDiffer) {
		c = confirmed{}
		err = src.Still(d.id, func() error {
			// While d is locked what is in it stays in it, so nobody waits for d who
			// holds x.
			if e, err := src.Lookup(d.id, name); err != nil || e.ID != x.id {
				return os.ErrNotExist
			}
			return src.Still(x.id, look)
		})
	}
	if errors.Is(err, os.ErrNotExist) {
		return confirmed{}, nil
	}
	if err != nil {
		return c, fmt.Errorf("object %s: %w", x.id, err)
	}
	diff := Difference{Tree: x.tree, Path: x.path, ID: x.id}
	if c.missing {
		diff.What, diff.Dir, diff.Detail = WhatMissing, d.id, "the secondary does not have the object"
		return c, v.report(diff)
	}
	if c.attributes {
		diff.What, diff.Detail = WhatAttributes, c.detail
		if err := v.report(diff); err != nil {
			return c, err
		}
	}
	if c.xattrsDiffer {
		diff.What, diff.Detail = WhatXattrs, ""
		if err := v.report(diff); err != nil {
			return c, err
		}
	}
	return c, nil
}

package reintegrate

import (
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// SECOND's side.

type sink struct{ *tree }

func (sink) Tree() uint8 { return 0 }

func (s sink) Begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	return nil
}

func (s sink) Quarantine(keep bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep = keep
	return nil
}

func (s sink) dir(id journal.FileID) (*node, error) {
	if d := s.byID[id]; d != nil && d.isDir() {
		return d, nil
	}
	return nil, fmt.Errorf("directory %s: %w", id, syscall.ENOENT)
}

func (s sink) List(dir journal.FileID) (es []Entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	if err != nil {
		return nil, err
	}
	for name, n := range d.names {
		es = append(es, n.entry(name))
	}
	return es, nil
}

func (s sink) Lookup(dir journal.FileID, name string) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	if err != nil {
		return Entry{}, err
	}
	if n := d.names[name]; n != nil {
		return n.entry(name), nil
	}
	return Entry{}, syscall.ENOENT
}

func (s sink) Create(dir journal.FileID, e *Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	switch {
	case err != nil:
		return err
	case d.names[e.Name] != nil || s.byID[e.ID] != nil:
		return fmt.Errorf("create %s: %w", e.Name, syscall.EEXIST)
	}
	s.create(d, e)
	s.changed(e.ID, dir)
	return nil
}

func (s sink) Place(id, dir journal.FileID, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	n := s.byID[id]
	switch {
	case err != nil:
		return err
	case n == nil:
		return syscall.ENOENT
	case d.names[name] != nil:
		return syscall.EEXIST
	}
	if n.isDir() {
		for p := d; p != nil; p = p.parent {
			if p == n {
				return fmt.Errorf("directory %s into itself: %w", id, syscall.EINVAL)
			}
		}
		for k, v := range n.parent.names {
			if v == n {
				delete(n.parent.names, k)
				n.parent.mtime = s.now()
			}
		}
		n.parent, n.held = d, nil
	} else if len(n.held) > 0 {
		delete(s.hold.names, n.held[0])
		n.held = n.held[1:]
	} else {
		n.nlink++
		n.tmp = false
	}
	d.names[name] = n
	d.mtime = s.now()
	s.changed(id, dir)
	return nil
}

func (s sink) Identify(dir journal.FileID, name string, id journal.FileID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	if err != nil {
		return err
	}
	n := d.names[name]
	if n == nil || !n.id.IsZero() || s.byID[id] != nil {
		return fmt.Errorf("identify %s: %w", name, syscall.EINVAL)
	}
	n.id = id
	s.byID[id] = n
	s.changed(id)
	return nil
}

func (s sink) Disown(id journal.FileID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil {
		return syscall.ENOENT
	}
	delete(s.byID, id)
	n.id = journal.FileID{}
	return nil
}

func (s sink) holdNode(n *node) {
	s.holds++
	name := fmt.Sprint(s.holds)
	n.held = append(n.held, name)
	s.hold.names[name] = n
	if n.isDir() {
		n.parent = s.hold
	}
}

func (s sink) Hold(dir journal.FileID, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.dir(dir)
	if err != nil {
		return err
	}
	n := d.names[name]
	if n == nil {
		return syscall.ENOENT
	}
	delete(d.names, name)
	d.mtime = s.now()
	s.holdNode(n)
	s.changed(n.id)
	return nil
}

func (s sink) Keep(id journal.FileID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil || n.nlink > 0 || !n.tmp {
		return fmt.Errorf("keep %s: %w", id, syscall.ENOENT)
	}
	n.nlink, n.tmp = 1, false
	s.holdNode(n)
	s.changed(n.id)
	return nil
}

func (s sink) DropHeld(most int) (dropped int, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var drop func(d *node)
	drop = func(d *node) {
		for name, n := range d.names {
			if n.isDir() {
				drop(n)
			}
			if d == s.hold && dropped >= most {
				return
			}
			delete(d.names, name)
			dropped++
			if n.nlink--; n.nlink == 0 && s.byID[n.id] == n {
				delete(s.byID, n.id)
			}
			n.held = slices.DeleteFunc(n.held, func(h string) bool { return d == s.hold && h == name })
		}
	}
	drop(s.hold)
	return dropped, len(s.hold.names) > 0, nil
}

func (s sink) Find(id journal.FileID) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byID[id]; n != nil {
		return n.entry(""), nil
	}
	return Entry{}, syscall.ENOENT
}

func (s sink) Open(id journal.FileID) (SinkFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil || n.typ() != unix.S_IFREG {
		return nil, syscall.ENOENT
	}
	return file{s.tree, n}, nil
}

func (s sink) Punch(id journal.FileID, off, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.byID[id]
	if o == nil {
		return syscall.ENOENT
	}
	if s.failPunch != nil {
		return s.failPunch
	}
	o.punch(off, n)
	s.changed(id)
	return nil
}

func (s sink) SetAttrs(id journal.FileID, a *Attrs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil {
		return syscall.ENOENT
	}
	if n.typ() != a.Mode&unix.S_IFMT {
		return syscall.EINVAL
	}
	if n.typ() == unix.S_IFREG {
		n.resize(a.Size)
	}
	n.mode, n.uid, n.gid, n.mtime = a.Mode, a.UID, a.GID, a.Mtime
	n.xattrs = map[string]string{}
	for _, x := range a.Xattrs {
		n.xattrs[x.Name] = string(x.Value)
	}
	s.changed(id)
	return nil
}

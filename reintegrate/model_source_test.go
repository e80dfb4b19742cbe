package reintegrate

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/journal"
)

// PRIM's side.

type source struct{ *tree }

func (source) Tree() uint8 { return 0 }

func (s source) live(id journal.FileID) *node {
	if n := s.byID[id]; n != nil && (n.nlink > 0 || n.tmp) {
		return n
	}
	return nil
}

func (s source) WithDir(dir journal.FileID, f func([]Entry) error) error {
	defer s.locks.lock(span{dir, 0, whole})()
	s.mu.Lock()
	d := s.live(dir)
	if d == nil {
		s.mu.Unlock()
		return syscall.ENOENT
	}
	var es []Entry
	for name, n := range d.names {
		es = append(es, n.entry(name))
	}
	s.mu.Unlock()
	return f(es)
}

func (s source) WithRange(id journal.FileID, off, n int64, f func(File) error) error {
	defer s.locks.lock(span{id, off, off + n})()
	s.mu.Lock()
	o := s.live(id)
	s.mu.Unlock()
	if o == nil {
		return syscall.ENOENT
	}
	return f(file{s.tree, o})
}

func (s source) WithObject(id journal.FileID, f func(*Attrs, File) error) error {
	defer s.locks.lock(span{id, 0, whole})()
	s.mu.Lock()
	o := s.live(id)
	if o == nil {
		s.mu.Unlock()
		return syscall.ENOENT
	}
	a := o.attrs()
	s.mu.Unlock()
	if o.typ() != unix.S_IFREG {
		return f(a, nil)
	}
	return f(a, file{s.tree, o})
}

func (s source) Stat(id journal.FileID) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byID[id]; n != nil {
		return n.entry(""), nil
	}
	return Entry{}, syscall.ENOENT
}

func (s source) Parent(dir journal.FileID) (journal.FileID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byID[dir]; n != nil && n.parent != nil && n.nlink > 0 {
		return n.parent.id, nil
	}
	return journal.FileID{}, syscall.ENOENT
}

func (s source) Orphans() (ids []journal.FileID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.byID {
		if n.tmp {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

package fs

import (
	"container/list"
	"sync"

	"golang.org/x/sys/unix"
)

// fdCache keeps the most recently used descriptors of objects open, so that the
// number of descriptors is bounded whatever the size of the tree: an object that
// is not in the cache is reached by its handle. An object in the cache has a user:
// the cache.
//
// Lock order: fdCache.mu, then Tree.mu.
type fdCache struct {
	mu  sync.Mutex
	max int
	lru list.List // of *fdEntry, most recent first
	m   map[fdKey]*fdEntry
}

type fdKey struct {
	o  *object
	rw bool // open for reading and writing, not O_PATH
}

// fdEntry is one open descriptor. It is closed when it has left the cache and
// nobody uses it any more.
type fdEntry struct {
	key   fdKey
	fd    int
	refs  int // users, under fdCache.mu
	elem  *list.Element
	cache *fdCache
}

func newFDCache(max int) *fdCache { return &fdCache{max: max, m: map[fdKey]*fdEntry{}} }

// get returns the descriptor of o, opening it if need be. The caller calls put
// on it when it is done.
func (c *fdCache) get(o *object, rw bool) (*fdEntry, error) {
	key := fdKey{o, rw}
	c.mu.Lock()
	if e := c.m[key]; e != nil {
		e.refs++
		c.lru.MoveToFront(e.elem)
		c.mu.Unlock()
		return e, nil
	}
	c.mu.Unlock()
	flags := unix.O_PATH | unix.O_NOFOLLOW
	if rw {
		flags = unix.O_RDWR | unix.O_NOFOLLOW
	}
	fd, err := o.open(flags)
	if err != nil {
		return nil, err
	}
	return c.add(o, rw, fd), nil
}

// add gives the cache a descriptor that the caller, a user of o, has just opened
// and returns it as get does.
func (c *fdCache) add(o *object, rw bool, fd int) *fdEntry {
	key := fdKey{o, rw}
	c.mu.Lock()
	if e := c.m[key]; e != nil { // somebody was faster
		e.refs++
		c.mu.Unlock()
		unix.Close(fd)
		return e
	}
	e := &fdEntry{key: key, fd: fd, refs: 1, cache: c}
	e.elem = c.lru.PushFront(e)
	c.m[key] = e
	o.tree.ref(o)
	var old *object
	if c.lru.Len() > c.max {
		old = c.drop(c.lru.Back().Value.(*fdEntry))
	}
	c.mu.Unlock()
	if old != nil {
		old.tree.unref(old, 1)
	}
	if !o.named() { // purge may have come before: the caller keeps e, the cache must not
		c.purge(o)
	}
	return e
}

func (e *fdEntry) put() {
	e.cache.mu.Lock()
	e.refs--
	if e.refs == 0 && e.elem == nil {
		unix.Close(e.fd)
	}
	e.cache.mu.Unlock()
}

// drop takes e out of the cache. c.mu is held; the caller unrefs the object once
// it is not.
func (c *fdCache) drop(e *fdEntry) *object {
	c.lru.Remove(e.elem)
	e.elem = nil
	delete(c.m, e.key)
	if e.refs == 0 {
		unix.Close(e.fd)
	}
	return e.key.o
}

// take returns a path descriptor of o that is the caller's: out of the cache, if it
// is there and nobody uses it. The caller uses o.
func (c *fdCache) take(o *object) (int, error) {
	c.mu.Lock()
	e := c.m[fdKey{o, false}]
	if e == nil || e.refs > 0 {
		c.mu.Unlock()
		return o.handle.open(o.tree.root, unix.O_PATH|unix.O_NOFOLLOW)
	}
	c.lru.Remove(e.elem)
	e.elem = nil
	delete(c.m, e.key)
	c.mu.Unlock()
	o.tree.unref(o, 1)
	return e.fd, nil
}

// purge forgets the descriptors of o, so that a deleted object's space is freed.
func (c *fdCache) purge(o *object) {
	n := int64(0)
	c.mu.Lock()
	for _, rw := range [...]bool{false, true} {
		if e := c.m[fdKey{o, rw}]; e != nil {
			c.drop(e)
			n++
		}
	}
	c.mu.Unlock()
	if n > 0 {
		o.tree.unref(o, n)
	}
}

// close forgets everything.
func (c *fdCache) close() {
	c.mu.Lock()
	var list []*object
	for c.lru.Len() > 0 {
		list = append(list, c.drop(c.lru.Back().Value.(*fdEntry)))
	}
	c.mu.Unlock()
	for _, o := range list {
		o.tree.unref(o, 1)
	}
}

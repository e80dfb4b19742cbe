package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/skfs/skfs/journal"
)

// index finds every object of a tree by its identity: the identity is in an xattr
// of the object, this is where the object is. It is derived: whatever is missing
// or damaged is found again by reading the tree.
//
// It is written without a log, and flushed with each checkpoint. So a crash leaves
// it as of the last checkpoint, which is enough: an object that was made since is
// in a directory of which the peer has a note (it lacks the name, or this host
// may), and listing that directory puts it here again (see Tree.idAt) before
// anything of the object itself is asked for. An entry of an object that is gone
// does no harm: its handle is stale.
//
//	key    0 | FileID                         where an object is
//	value  handle type, 4 bytes little endian | handle
//	key    1                                  every object of the tree was put here
//	value  version, 1 | key of the root as above
type index struct {
	db       *pebble.DB
	complete atomic.Bool
	failed   atomic.Pointer[error] // the first error of a put or delete
}

const indexVersion = 1

var completeKey = []byte{1}

// openIndex opens the index in dir, or one in memory if dir is empty. root tells
// whether what is there was made for this tree.
func openIndex(dir string, root handle) (*index, error) {
	o := &pebble.Options{
		DisableWAL: true, MemTableSize: 4 << 20, CacheSize: 4 << 20, MaxOpenFiles: 100,
		Logger: quiet{}, LoggerAndTracer: nil, FormatMajorVersion: pebble.FormatNewest,
	}
	if dir == "" {
		dir, o.FS = "index", vfs.NewMem()
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("index of the replicated directory in %s: %w: it can be removed, it is then made again", dir, err)
	}
	x := &index{db: db}
	v, closer, err := db.Get(completeKey)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		db.Close()
		return nil, fmt.Errorf("index in %s: %w", dir, err)
	default:
		x.complete.Store(string(v) == string(completeValue(root)))
		closer.Close()
	}
	if !x.complete.Load() {
		if err := x.clear(); err != nil {
			db.Close()
			return nil, err
		}
	}
	return x, nil
}

func completeValue(root handle) []byte { return append([]byte{indexVersion}, encodeHandle(root)...) }

// quiet is pebble's log: what matters of it comes back as errors.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("index: "+format, args...))
}

func indexKey(id journal.FileID) []byte { return append(make([]byte, 1, 17), id[:]...) }

func encodeHandle(h handle) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+maxHandle), uint32(h.typ))
	return append(b, h.b[:h.n]...)
}

func decodeHandle(b []byte) (h handle, ok bool) {
	if len(b) < 4 || len(b) > 4+maxHandle {
		return h, false
	}
	h.typ, h.n = int32(binary.LittleEndian.Uint32(b)), uint8(len(b)-4)
	copy(h.b[:], b[4:])
	return h, true
}

// get returns where an object is, as far as the index knows.
func (x *index) get(id journal.FileID) (handle, bool) {
	v, closer, err := x.db.Get(indexKey(id))
	if err != nil {
		return handle{}, false
	}
	defer closer.Close()
	return decodeHandle(v)
}

// put notes where an object is. An error is one of the next flush.
func (x *index) put(id journal.FileID, h handle) {
	x.check(x.db.Set(indexKey(id), encodeHandle(h), pebble.NoSync))
}

func (x *index) check(err error) {
	if err != nil {
		x.failed.CompareAndSwap(nil, &err)
	}
}

// learn is put for an object that was met: usually it is there.
func (x *index) learn(id journal.FileID, h handle) {
	if old, ok := x.get(id); !ok || old != h {
		x.put(id, h)
	}
}

func (x *index) delete(id journal.FileID) { x.check(x.db.Delete(indexKey(id), pebble.NoSync)) }

// clear empties the index.
func (x *index) clear() error {
	x.complete.Store(false)
	if err := x.db.DeleteRange([]byte{0}, []byte{2}, pebble.NoSync); err != nil {
		return fmt.Errorf("empty the index: %w", err)
	}
	return nil
}

// finish says that every object is there.
func (x *index) finish(root handle) error {
	if err := x.db.Set(completeKey, completeValue(root), pebble.NoSync); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if err := x.flush(); err != nil {
		return err
	}
	x.complete.Store(true)
	return nil
}

// flush makes what is there durable.
func (x *index) flush() error {
	if err := x.failed.Load(); err != nil {
		return fmt.Errorf("index: %w", *err)
	}
	if err := x.db.Flush(); err != nil {
		return fmt.Errorf("flush the index: %w", err)
	}
	return nil
}

func (x *index) close() error { return x.db.Close() }

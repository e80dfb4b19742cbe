package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/fs"
	"github.com/skfs/skfs/journal"
)

// What it costs to note what the peer may lack: the same mount with notes and
// without, and nothing else of a replica. A peer in sync is one at the other end of
// a connection that takes everything and does nothing.

// The modes of a mount.
const (
	modeAlone  = "alone"
	modeInSync = "insync"
)

// noteJob is work on a mount in a mode. Its prepare comes before the mount: what is
// made through it would be noted as a whole.
type noteJob struct {
	*job
	mode string
}

var noteJobs = []noteJob{
	{&job{name: "nfirst", prepare: layUntouched, run: firstTouch, figures: []figure{{name: "nfirst", work: "4 KiB write, each into another zone, ALONE", unit: "/s"}}}, modeAlone},
	{&job{name: "nagain", prepare: layNoted, run: touchAgain, figures: []figure{{name: "nagain", work: "4 KiB random write in noted zones, ALONE", unit: "/s"}}}, modeAlone},
	{&job{name: "ncreate", run: createFiles, figures: []figure{{name: "ncreate", work: "create, write 4 KiB, close, in one directory, ALONE", unit: " files/s"}}}, modeAlone},
	{&job{name: "nfsync", prepare: layNoted, run: writeFsync, figures: []figure{{name: "nfsync", work: "4 KiB random write + fsync, in sync", unit: "/s"}}}, modeInSync},
	{&job{name: "nsync", run: createFiles, figures: []figure{{name: "nsync", work: "create, write 4 KiB, close, in one directory, in sync", unit: " files/s"}}}, modeInSync},
}

// noteTarget names the mount of a mode, with notes or without.
func noteTarget(mode string, noted bool) string {
	if noted {
		return mode + "-noted"
	}
	return mode
}

// startNoting mounts what noteJobs work on.
func (y *yard) startNoting(ctx context.Context) (targets map[string]*target, err error) {
	targets = map[string]*target{}
	for i, mode := range []string{modeAlone, modeInSync} {
		for k, noted := range []bool{false, true} {
			t := &target{name: noteTarget(mode, noted), number: 2*i + k, host: y.hosts[0]}
			targets[t.name] = t
			notes := ""
			if noted {
				notes = path.Join(stateDir, t.name)
			}
			if err := t.startMount(ctx, mode, notes); err != nil {
				return targets, fmt.Errorf("mount %s: %w", t.name, err)
			}
		}
	}
	return targets, nil
}

func (t *target) startMount(ctx context.Context, mode, notes string) error {
	for _, j := range noteJobs {
		if j.mode != mode {
			continue
		}
		s := site{Dir: t.host.Path(path.Join(t.dir(), j.name))}
		if err := os.MkdirAll(s.Dir, 0o755); err != nil {
			return err
		}
		if j.prepare != nil {
			if err := j.prepare(s); err != nil {
				return err
			}
		}
	}
	return t.startRole(ctx, "noting", mode, t.dir(), notes)
}

// notingRole is a mount in a mode, over a directory, with notes in another one if
// it is named. It says when it has mounted, and unmounts at SIGTERM.
func notingRole(args []string) (err error) {
	if len(args) != 3 {
		return fmt.Errorf("arguments %q: expected a mode, a directory, and one for notes or nothing", args)
	}
	mode, dir, notes := args[0], args[1], args[2]
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	unix.Umask(0)
	tree, err := fs.OpenTree(dir, 0, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	g := fs.NewGate()
	if notes != "" {
		l, err := journal.OpenLacks(notes, journal.LacksOptions{ZoneSize: zoneSize})
		if err != nil {
			return err
		}
		defer l.Close()
		if mode == modeAlone {
			l.Unknow()
		}
		g.Notes = l
	}
	f := fs.New(tree, g)
	if err := f.Mount(); err != nil {
		return err
	}
	f.Rule()
	g.Open(nil)
	if mode == modeInSync {
		s, err := idlePeer()
		if err != nil {
			return err
		}
		defer s.Close(nil)
		if !g.JoinClean(func() fs.Stream { return s }) {
			return errors.New("something was changed before the peer joined")
		}
		g.Vouched(s) // what it would note counts: see fs.Gate
	}
	fmt.Println("mounted")
	<-end
	_, err = f.Unmount(time.Second)
	return err
}

// idlePeer is the stream to a peer that does nothing, over a connection in this
// host.
func idlePeer() (*journal.Sender, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	there, err := l.Accept()
	if err != nil {
		return nil, errors.Join(err, here.Close())
	}
	r := journal.NewReceiver(journal.NewLink(there), idle{}, journal.ReceiverOptions{Epoch: epoch})
	go r.Run(context.Background()) // until the sender closes the connection
	return journal.NewSender(journal.NewLink(here), journal.SenderOptions{Epoch: epoch}), nil
}

// idle implements journal.Applier.
type idle struct{}

func (idle) Apply(op *journal.Op) journal.Result { return journal.Result{Seq: op.Seq} }

const notedFile, notedSize = "noted", 64 << 20

// layNoted makes the file of the jobs that write where something is noted already.
func layNoted(s site) error {
	f, err := os.Create(filepath.Join(s.Dir, notedFile))
	if err != nil {
		return err
	}
	block := make([]byte, smallSize) // as large as the writes: see fioJob
	for off := int64(0); off < notedSize && err == nil; off += smallSize {
		_, err = f.WriteAt(block, off)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// during calls do until the time of the job is over, and returns the rate.
func (s site) during(do func(n int64) error) ([]float64, error) {
	n, began := 0, time.Now()
	for ; time.Since(began) < s.secs(); n++ {
		if err := do(int64(n)); err != nil {
			return nil, err
		}
	}
	return []float64{rate(n, began)}, nil
}

const untouched = 1000 // more than there are rounds

// layUntouched makes files of which nothing is noted.
func layUntouched(s site) error {
	for i := range untouched {
		if err := os.WriteFile(filepath.Join(s.Dir, fmt.Sprintf("file%03d", i)), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// firstTouch writes into one zone after the other of a file that is not noted yet,
// and removes it.
func firstTouch(s site) (_ []float64, err error) {
	files, err := os.ReadDir(s.Dir)
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, fmt.Errorf("%s has %d files without notes, expected one for each of %d rounds at the most", s.Dir, len(files), untouched))
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, files[0].Name()), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, smallSize)
	return s.during(func(n int64) error { _, err := f.WriteAt(block, n*zoneSize); return err })
}

func touchAgain(s site) ([]float64, error) { return writeNoted(s, func(*os.File) error { return nil }) }

func writeFsync(s site) ([]float64, error) { return writeNoted(s, (*os.File).Sync) }

// writeNoted writes at random into the file that layNoted has made.
func writeNoted(s site, after func(*os.File) error) (_ []float64, err error) {
	f, err := os.OpenFile(filepath.Join(s.Dir, notedFile), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block := make([]byte, smallSize)
	return s.during(func(int64) error {
		if _, err := f.WriteAt(block, rand.Int64N(notedSize/smallSize)*smallSize); err != nil {
			return err
		}
		return after(f)
	})
}

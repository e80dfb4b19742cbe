package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/e2e/lab"
	"github.com/skfs/skfs/replica"
)

// trial is a reintegration, and what would limit it if skfs cost nothing.
type trial struct {
	name string
	work func(effort) string
	unit string
	how  string // the copy that it is to be: another one would be another measurement
	run  func(context.Context, *yard) (outcome, error)
}

// outcome is the rate of a reintegration, from the moment at which the second
// joins until it has recorded that it is in sync: the data is on its disk. Limits
// that do not apply are 0.
type outcome struct{ rate, read, write, tcp float64 }

// limit is the least of what limits the rate.
func (o outcome) limit() float64 {
	least := 0.0
	for _, v := range []float64{o.read, o.write, o.tcp} {
		if v > 0 && (least == 0 || v < least) {
			least = v
		}
	}
	return least
}

var trials = []*trial{
	{name: "refull", unit: " MB/s", how: "full", run: copyLarge,
		work: func(e effort) string {
			return fmt.Sprintf("full, %d files of %d MiB on an empty second", largeFiles, e.MB)
		}},
	{name: "resmall", unit: " files/s", how: "full", run: copySmall,
		work: func(e effort) string {
			return fmt.Sprintf("full, %d files of 4 KiB on an empty second", smallFiles*e.Files)
		}},
	{name: "redelta", unit: " MB/s", how: "delta", run: copyZones,
		work: func(e effort) string {
			return fmt.Sprintf("delta, 4 KiB changed in every other zone of %d files of %d MiB", largeFiles, e.zoned()>>20)
		}},
}

const (
	largeFiles = 8 // of -mb megabytes each
	smallFiles = 5 // times -files, of 4 KiB each
	smallDir   = 1000
	smallSize  = 4 << 10
	zoneSize   = 8 << 20
	workers    = 3 // nbrei
	benchDir   = "/bench"
)

// zoned is the size of the files of which every other zone is changed.
func (e effort) zoned() int64 { return max(int64(e.MB)<<20, 2*zoneSize) }

// yard is two hosts of which one comes back to the other. Each trial of each round
// has directories and replicas of its own.
type yard struct {
	lab   *lab.Lab
	hosts [2]*lab.Host
	effort
	t *target // of the trial at hand
}

func newYard(s *settings) (_ *yard, err error) {
	l, err := lab.New(lab.Options{Dir: s.dir, Networks: []string{network}})
	if err != nil {
		return nil, err
	}
	y := &yard{lab: l, effort: s.effort}
	for i, name := range []string{"a", "b"} {
		if y.hosts[i], err = l.AddHost(lab.HostSpec{Name: name, Disks: []lab.Disk{{Path: benchDir}}}); err == nil {
			err = os.Mkdir(y.hosts[i].Path(stateDir), 0o755)
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return y, nil
}

// measure runs a trial in a directory of its own.
func (y *yard) measure(ctx context.Context, tr *trial, round int) (o outcome, err error) {
	y.t = &target{name: fmt.Sprintf("%s%d", tr.name, round), host: y.hosts[0]}
	for _, h := range y.hosts {
		if err := os.Mkdir(h.Path(y.t.dir()), 0o755); err != nil {
			return o, err
		}
	}
	o, err = tr.run(ctx, y)
	err = errors.Join(err, y.t.stop(context.WithoutCancel(ctx)))
	if err == nil {
		said := y.t.replicas[0].logged("is synchronized: ")
		if len(said) == 0 || !strings.Contains(said[len(said)-1], tr.how+" copy") {
			err = fmt.Errorf("the primary said %q, expected a %s copy", said, tr.how)
		}
	}
	for _, h := range y.hosts {
		for _, dir := range []string{y.t.dir(), path.Join(stateDir, y.t.name)} {
			err = errors.Join(err, os.RemoveAll(h.Path(dir)))
		}
	}
	return o, err
}

// alone starts the primary, which knows of no second, on what is there.
func (y *yard) alone(ctx context.Context) error {
	p, err := y.t.startReplica(ctx, y.hosts[0], conf.AsyncSecond)
	if p != nil {
		y.t.replicas = append(y.t.replicas, p)
	}
	if err != nil {
		return err
	}
	p.ending.Store(true) // that the second goes is wanted
	if err := p.client.Promote(ctx, epoch, replica.ForcePrim); err != nil {
		return err
	}
	return p.client.Alone(ctx, epoch, replica.AnyStream)
}

// join starts the second and returns how long it takes to be in sync.
func (y *yard) join(ctx context.Context) (time.Duration, error) {
	p, err := y.t.startReplica(ctx, y.hosts[1], conf.AsyncSecond)
	if p != nil {
		y.t.replicas = append(y.t.replicas, p)
	}
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := p.client.Follow(ctx, epoch, y.t.replicas[0].addr, replica.FollowOptions{}); err != nil {
		return 0, err
	}
	select {
	case <-p.synced:
		return time.Since(began), nil
	case <-p.started.Done():
		return 0, fmt.Errorf("host %s: the replica ended: %w", p.host.Name(), p.started.Wait())
	case <-ctx.Done():
		return 0, fmt.Errorf("host %s does not come in sync: %w", p.host.Name(), ctx.Err())
	}
}

// leave stops the second; the primary goes on alone.
func (y *yard) leave(ctx context.Context) error {
	a, b := y.t.replicas[0], y.t.replicas[1]
	y.t.replicas = y.t.replicas[:1]
	b.ending.Store(true)
	if err := b.stop(ctx); err != nil {
		return err
	}
	select {
	case <-a.lost:
		return a.client.Alone(ctx, epoch, replica.AnyStream)
	case <-ctx.Done():
		return fmt.Errorf("host %s does not notice that its second has gone: %w", a.host.Name(), ctx.Err())
	}
}

// path is where a host has the directory of the trial.
func (y *yard) path(host int, elem ...string) string {
	return y.hosts[host].Path(filepath.Join(append([]string{y.t.dir()}, elem...)...))
}

// copyLarge: a second that has nothing gets large files.
func copyLarge(ctx context.Context, y *yard) (o outcome, err error) {
	files, size := largeNames(largeFiles), int64(y.MB)<<20
	if err := writeFiles(y.path(0), files, size); err != nil {
		return o, err
	}
	if err := y.alone(ctx); err != nil {
		return o, err
	}
	took, err := y.join(ctx)
	if err != nil {
		return o, err
	}
	bytes := float64(int64(len(files)) * size)
	o.rate = perSecond(bytes/1e6, took)
	if o.read, err = y.readRate(files, part{size, size, size}, bytes/1e6, 0); err != nil {
		return o, err
	}
	if o.write, err = y.writeRate(files, size, bytes/1e6); err != nil {
		return o, err
	}
	rate, err := y.tcpRate(ctx)
	o.tcp = rate / 1e6
	return o, err
}

// copySmall: a second that has nothing gets many small files.
func copySmall(ctx context.Context, y *yard) (o outcome, err error) {
	var files []string
	for i := range smallFiles * y.Files {
		files = append(files, fmt.Sprintf("dir%03d/file%03d", i/smallDir, i%smallDir))
	}
	if err := writeFiles(y.path(0), files, smallSize); err != nil {
		return o, err
	}
	if err := y.alone(ctx); err != nil {
		return o, err
	}
	took, err := y.join(ctx)
	if err != nil {
		return o, err
	}
	n := float64(len(files))
	o.rate = perSecond(n, took)
	if o.read, err = y.readRate(files, part{smallSize, smallSize, smallSize}, n, 0); err != nil {
		return o, err
	}
	if o.write, err = y.writeRate(files, smallSize, n); err != nil {
		return o, err
	}
	rate, err := y.tcpRate(ctx)
	o.tcp = rate / smallSize
	return o, err
}

// copyZones: a second was in sync, and a few bytes here and there were changed
// since. The noted zones are read on both hosts, and little of them travels.
func copyZones(ctx context.Context, y *yard) (o outcome, err error) {
	files := largeNames(largeFiles)
	size := y.zoned()
	if err := writeFiles(y.path(0), files, size); err != nil {
		return o, err
	}
	if err := y.alone(ctx); err != nil {
		return o, err
	}
	if _, err := y.join(ctx); err != nil {
		return o, err
	}
	if err := y.leave(ctx); err != nil {
		return o, err
	}
	zones, err := y.touch(files, size)
	if err != nil {
		return o, err
	}
	for host := range y.hosts {
		dir, err := y.backing(host)
		if err != nil {
			return o, err
		}
		if err := dropFiles(dir, files); err != nil {
			return o, err
		}
	}
	took, err := y.join(ctx)
	if err != nil {
		return o, err
	}
	mb := float64(zones) * zoneSize / 1e6
	o.rate = perSecond(mb, took)
	o.read, err = y.readRate(files, part{size, 2 * zoneSize, zoneSize}, mb, 0, 1)
	return o, err
}

// touch changes 4 KiB in every other zone of the files, through the mount, and
// returns how many zones that are.
func (y *yard) touch(files []string, size int64) (zones int, err error) {
	data := make([]byte, smallSize)
	for _, name := range files {
		f, err := os.OpenFile(y.path(0, name), os.O_WRONLY, 0)
		if err != nil {
			return zones, err
		}
		for off := int64(0); off+zoneSize <= size && err == nil; off += 2 * zoneSize {
			_, err = f.WriteAt(data, off+zoneSize/2)
			zones++
		}
		if err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return zones, err
		}
	}
	return zones, nil
}

func largeNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("large%d", i))
	}
	return names
}

func perSecond(n float64, took time.Duration) float64 { return n / took.Seconds() }

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/e2e/lab"
)

// The targets.
const (
	native = "native"
	floor  = "floor"
	alone  = "alone"
	second = "second" // a pair with async="second"
	none   = "none"   // a pair with async="none"
)

var targetNames = []string{native, floor, alone, second, none}

// selectTargets returns the targets of a comma-separated list and native, in the
// order of the table; all for "".
func selectTargets(list string) ([]string, error) {
	if list == "" {
		return targetNames, nil
	}
	wanted := map[string]bool{native: true}
	for name := range strings.SplitSeq(list, ",") {
		if !slices.Contains(targetNames, name) {
			return nil, fmt.Errorf("-targets: there is no %q: expected some of %s", name, strings.Join(targetNames, ","))
		}
		wanted[name] = true
	}
	return slices.DeleteFunc(slices.Clone(targetNames), func(n string) bool { return !wanted[n] }), nil
}

// target is a file system that jobs run on.
type target struct {
	name   string
	number int
	host   *lab.Host // where its application runs

	replicas []*process // the primary first; none for native and floor
	floor    *lab.Started
}

// dir is where host a sees the target.
func (t *target) dir() string { return targetDir(t.name) }

func targetDir(name string) string { return "/bench/" + name }

const (
	floorBacking = "/bench/floor-backing"
	stateDir     = "/bench/state"
)

// bed is the lab with all targets.
type bed struct {
	lab     *lab.Lab
	targets []*target
	site    site
	profile string
	disk    *os.File // on the file system of all backing directories
}

func newBed(ctx context.Context, s *settings) (_ *bed, err error) {
	l, err := lab.New(lab.Options{Dir: s.dir, Networks: []string{network}})
	if err != nil {
		return nil, err
	}
	b := &bed{lab: l, profile: s.profile, site: site{effort: s.effort, Tar: filepath.Join(l.Dir(), "tree.tar")}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.disk, err = os.Open(l.Dir()); err != nil {
		return nil, err
	}
	if err := makeTar(ctx, b.site.Tar); err != nil {
		return nil, err
	}
	disks := []lab.Disk{{Path: stateDir}, {Path: floorBacking}}
	for _, name := range s.targets {
		disks = append(disks, lab.Disk{Path: targetDir(name)})
	}
	var hosts [2]*lab.Host
	for i, name := range []string{"a", "b"} {
		if hosts[i], err = l.AddHost(lab.HostSpec{Name: name, Disks: disks}); err != nil {
			return nil, err
		}
	}
	for i, name := range s.targets {
		t := &target{name: name, number: i, host: hosts[0]}
		b.targets = append(b.targets, t)
		if err := t.start(ctx, hosts); err != nil {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
	}
	return b, nil
}

func (b *bed) names() []string {
	var names []string
	for _, t := range b.targets {
		names = append(names, t.name)
	}
	return names
}

// start brings the target up.
func (t *target) start(ctx context.Context, hosts [2]*lab.Host) error {
	switch t.name {
	case floor:
		return t.startFloor(ctx)
	case alone:
		return t.startReplicas(ctx, hosts[:1], conf.AsyncSecond)
	case second:
		return t.startReplicas(ctx, hosts[:], conf.AsyncSecond)
	case none:
		return t.startReplicas(ctx, hosts[:], conf.AsyncNone)
	}
	return nil
}

func (t *target) startFloor(ctx context.Context) error {
	return t.startRole(ctx, "floor", floorBacking, t.dir())
}

// startRole runs a process of the host that takes a role in which it mounts something
// and says so, and returns when it has.
func (t *target) startRole(ctx context.Context, role string, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := t.host.RoleCommand(context.WithoutCancel(ctx), role, args...)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	t.floor, err = t.host.Start(cmd)
	w.Close()
	if err != nil {
		return err
	}
	if _, err := bufio.NewReader(r).ReadString('\n'); err != nil { // or it has ended
		return errors.Join(t.floor.Wait(), err)
	}
	return nil
}

// prepare lets the jobs lay out their files on all targets.
func (b *bed) prepare(ctx context.Context, jobs []*job) error {
	for _, j := range jobs {
		began := time.Now()
		for _, t := range b.targets {
			if _, err := t.do(ctx, j, stepPrepare, b.site); err != nil {
				return fmt.Errorf("prepare %s on %s: %w", j.name, t.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "%5.0fs  to prepare %s\n", time.Since(began).Seconds(), j.name)
	}
	return nil
}

// measure runs a job on a target that has nothing else to do: what was written
// before is on the disk.
func (b *bed) measure(ctx context.Context, j *job, t *target, round int) ([]float64, error) {
	if err := unix.Syncfs(int(b.disk.Fd())); err != nil {
		return nil, fmt.Errorf("syncfs: %w", err)
	}
	if b.profile == "" {
		return t.do(ctx, j, stepRun, b.site)
	}
	for _, p := range t.replicas {
		if err := p.startProfile(ctx); err != nil {
			return nil, err
		}
	}
	rates, err := t.do(ctx, j, stepRun, b.site)
	for _, p := range t.replicas {
		file := filepath.Join(b.profile, fmt.Sprintf("%s-%s-%s-%d.pprof", j.name, t.name, p.host.Name(), round+1))
		err = errors.Join(err, p.stopProfile(ctx, file))
	}
	return rates, err
}

// close takes everything away, in order where that is possible: servers, mounts,
// hosts.
func (b *bed) close() error {
	ctx := context.Background() // it may be that ours was cancelled
	var errs []error
	for _, t := range b.targets {
		for _, j := range jobs {
			if _, err := os.Stat(t.host.Path(path.Join(t.dir(), j.name))); err != nil {
				continue // not prepared
			}
			if _, err := t.do(ctx, j, stepFinish, b.site); err != nil {
				errs = append(errs, err)
			}
		}
		errs = append(errs, t.stop(ctx))
	}
	if b.disk != nil {
		errs = append(errs, b.disk.Close())
	}
	return errors.Join(append(errs, b.lab.Close())...)
}

func (t *target) stop(ctx context.Context) error {
	var errs []error
	for _, p := range t.replicas {
		p.ending.Store(true)
	}
	for _, p := range t.replicas {
		errs = append(errs, p.stop(ctx))
	}
	if t.floor != nil {
		errs = append(errs, unix.Kill(t.floor.PID(), unix.SIGTERM), t.floor.Wait())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop %s: %w", t.name, err)
	}
	return nil
}

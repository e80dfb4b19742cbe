package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/lab"
)

// settings is what the command line asks for.
type settings struct {
	jobs    []*job
	trials  []*trial // reintegrations
	notes   bool     // what notes cost
	sharing bool     // what a shared address costs
	targets []string
	rounds  int
	effort  effort
	profile string // directory of CPU profiles, "" for none
	report  string // file to keep the table in, "" for none
	dir     string // where the backing directories are made
}

const reportFile = "docs/performance.md"

func parse(args []string) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	jobs := f.String("jobs", "", "comma-separated, default all: "+strings.Join(append(append(figureNames(), returnNames()...), sharingRow), ","))
	targets := f.String("targets", "", "comma-separated, default all: "+strings.Join(targetNames, ",")+"; native is always there")
	f.IntVar(&s.rounds, "rounds", 5, "rounds")
	f.IntVar(&s.effort.Secs, "secs", 1, "`seconds` of each measurement that is limited by time")
	f.IntVar(&s.effort.MB, "mb", 256, "`megabytes` of the sequential file")
	f.IntVar(&s.effort.Files, "files", 4000, "files that are created")
	f.StringVar(&s.profile, "profile", "", "write CPU profiles of the replicas to this `directory`")
	f.StringVar(&s.report, "o", "", "replace the table in this `file` (default "+reportFile+" when everything is run, otherwise none)")
	f.StringVar(&s.dir, "dir", "", "make the backing directories below this `directory` (default /var/tmp)")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("argument %q: expected flags only", f.Arg(0))
	}
	if s.rounds < 1 || s.effort.Secs < 1 || s.effort.MB < 1 || s.effort.Files < 1 {
		return nil, errors.New("-rounds, -secs, -mb and -files: expected at least 1")
	}
	var err error
	var rest string
	if s.sharing, rest = selectSharing(*jobs); rest != "" || *jobs == "" {
		s.trials, s.notes, rest = selectReturns(rest)
	}
	if rest != "" || *jobs == "" {
		if s.jobs, err = selectJobs(rest); err != nil {
			return nil, err
		}
	}
	if s.targets, err = selectTargets(*targets); err != nil {
		return nil, err
	}
	if s.report == "" && *jobs == "" && *targets == "" {
		s.report = reportFile
	}
	return s, nil
}

func main() {
	lab.Main(map[string]lab.Role{"job": jobRole, "floor": floorRole, "replica": replicaRole,
		"noting": notingRole, "tcpsink": tcpSinkRole, "tcpsource": tcpSourceRole})
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
		err = run(ctx, s)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s *settings) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it makes hosts out of namespaces")
	}
	if _, err := lab.Sweep(s.dir, false); err != nil {
		return err
	}
	for _, m := range []struct {
		part   section
		wanted bool
		run    func(context.Context, *settings) (string, error)
	}{
		{writing, len(s.jobs) > 0, runJobs},
		{returning, len(s.trials) > 0 || s.notes, runReturns},
		{sharing, s.sharing, runSharing},
	} {
		if !m.wanted {
			continue
		}
		text, err := m.run(ctx, s)
		if err != nil {
			return err
		}
		fmt.Printf("\n%s", text)
		if s.report == "" {
			continue
		}
		if err := keep(s.report, m.part, text); err != nil {
			return err
		}
	}
	return nil
}

// runJobs measures every job on every target, and returns the section of the
// report.
func runJobs(ctx context.Context, s *settings) (_ string, err error) {
	began := time.Now()
	s.jobs = available(s.jobs)
	if len(s.jobs) == 0 {
		return "", errors.New("nothing to measure")
	}
	if s.profile != "" {
		if err := os.MkdirAll(s.profile, 0o755); err != nil {
			return "", err
		}
	}
	b, err := newBed(ctx, s)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.prepare(ctx, s.jobs); err != nil {
		return "", err
	}
	r := newResults(describe(ctx, s, b.lab.Dir()))
	for round := range s.rounds {
		for i, j := range s.jobs {
			for k := range b.targets {
				t := b.targets[(k+i+round)%len(b.targets)]
				rates, err := b.measure(ctx, j, t, round)
				if err != nil {
					return "", fmt.Errorf("%s on %s: %w", j.name, t.name, err)
				}
				r.add(j, t.name, round, rates)
			}
			fmt.Fprintf(os.Stderr, "%5.0fs  round %d/%d  %s\n", time.Since(began).Seconds(), round+1, s.rounds, r.line(j, b.names(), round))
		}
	}
	r.run.Took = time.Since(began)
	return r.run.String() + "\n" + r.table(s.jobs, b.names()), nil
}

// available leaves out the jobs whose programs are not installed.
func available(jobs []*job) []*job {
	var have []*job
	for _, j := range jobs {
		if err := j.installed(); err != nil {
			fmt.Fprintf(os.Stderr, "left out: %s: %v\n", j.name, err)
			continue
		}
		have = append(have, j)
	}
	return have
}

// makeTar packs what tar is to unpack: a part of the Go distribution.
func makeTar(ctx context.Context, file string) error {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src")
	out, err := exec.CommandContext(ctx, "tar", "cf", file, "-C", src, "net", "crypto", "runtime", "internal").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pack the source tree: %w: %s", err, out)
	}
	return nil
}

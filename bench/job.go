package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// effort is how much work a measurement does.
type effort struct {
	Secs  int // of those limited by time
	MB    int // of the sequential file
	Files int // to create
}

// site is where a job works.
type site struct {
	effort
	Dir    string // of its own, on the target
	Tar    string // the source tree to unpack
	Number int    // of the target
}

func (s site) secs() time.Duration { return time.Duration(s.Secs) * time.Second }

// job is some work. It runs in host a, in a process of its own for each step.
type job struct {
	name    string
	figures []figure
	needs   []string // programs, found by program

	prepare func(site) error              // once for each target, not measured
	run     func(site) ([]float64, error) // returns a rate for each figure
	finish  func(site) error              // after the last round
}

// figure is one rate that a job measures, and what is expected of a pair with
// async="second", as a ratio to native.
type figure struct {
	name       string
	work       string
	unit       string
	reach, aim float64
}

// jobs are all there are, in the order of the table.
var jobs = []*job{
	fioJob("fs1", figure{work: "4 KiB write + fsync, 1 job", unit: "/s", reach: 0.35, aim: 0.45},
		"--rw=randwrite", "--bs=4k", "--size=64M", "--overwrite=1", "--fsync=1"),
	fioJob("fs8", figure{work: "4 KiB write + fsync, 8 jobs", unit: "/s", reach: 0.35, aim: 0.6},
		"--rw=randwrite", "--bs=4k", "--size=16M", "--overwrite=1", "--fsync=1", "--numjobs=8"),
	fioJob("rw4", figure{work: "4 KiB random write, 4 files", unit: "/s", reach: 0.022, aim: 0.05},
		"--rw=randwrite", "--bs=4k", "--size=64M", "--overwrite=1", "--numjobs=4"),
	sequentialWrite(figure{work: "sequential write, 1 MiB", unit: " MB/s", reach: 0.35, aim: 0.6}),
	warmReads(figure{name: "seqr", work: "warm sequential read", unit: " MB/s", reach: 0.75, aim: 0.95},
		figure{name: "rr1", work: "warm 4 KiB random read", unit: "/s", reach: 0.85, aim: 0.95}),
	{name: "create", run: createFiles,
		figures: []figure{{name: "create", work: "create, write 4 KiB, close", unit: " files/s", reach: 0.25, aim: 0.4}}},
	{name: "tree", run: unpackAndRemove, needs: []string{"tar", "rm"},
		figures: []figure{
			{name: "untar", work: "untar of a source tree", unit: " files/s", reach: 0.15, aim: 0.3},
			{name: "rm", work: "rm -rf", unit: " files/s", reach: 0.10, aim: 0.2}}},
	{name: "sqlite", run: sqliteRows,
		figures: []figure{{name: "sqlite", work: "SQLite transactions", unit: "/s", reach: 0.33, aim: 0.5}}},
	{name: "pgbench", prepare: startPostgres, run: pgbench, finish: stopPostgres, needs: []string{"initdb", "pg_ctl", "pgbench"},
		figures: []figure{{name: "pgbench", work: "pgbench", unit: " tps", reach: 0.65, aim: 0.9}}},
}

func figureNames() []string {
	var names []string
	for _, j := range jobs {
		for _, f := range j.figures {
			names = append(names, f.name)
		}
	}
	return names
}

// selectJobs returns the jobs that measure the figures in a comma-separated list,
// in the order of the table; all for "".
func selectJobs(list string) ([]*job, error) {
	if list == "" {
		return jobs, nil
	}
	wanted := map[*job]bool{}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(jobs, func(j *job) bool {
			return slices.ContainsFunc(j.figures, func(f figure) bool { return f.name == name })
		})
		if i < 0 {
			return nil, fmt.Errorf("-jobs: there is no %q: expected some of %s", name, strings.Join(append(figureNames(), returnNames()...), ","))
		}
		wanted[jobs[i]] = true
	}
	return slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return !wanted[j] }), nil
}

func (j *job) installed() error {
	for _, name := range j.needs {
		if _, err := program(name); err != nil {
			return err
		}
	}
	return nil
}

// program finds a program in PATH or where Debian keeps PostgreSQL's.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is right
	if len(found) == 0 {
		return "", fmt.Errorf("%s is not installed", name)
	}
	return slices.Max(found), nil
}

// The steps of a job.
const (
	stepPrepare = "prepare"
	stepRun     = "run"
	stepFinish  = "finish"
)

// do runs one step of a job in the host and returns its rates.
func (t *target) do(ctx context.Context, j *job, step string, s site) ([]float64, error) {
	s.Dir = filepath.Join(t.dir(), j.name)
	s.Number = t.number
	where, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	out, err := t.host.RunCommand(t.host.RoleCommand(ctx, "job", j.name, step, string(where)))
	if err != nil || step != stepRun {
		return nil, err
	}
	var rates []float64
	for word := range strings.FieldsSeq(out) {
		rate, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return nil, fmt.Errorf("rates %q: %w", out, err)
		}
		rates = append(rates, rate)
	}
	if len(rates) != len(j.figures) {
		return nil, fmt.Errorf("rates %q: expected %d", out, len(j.figures))
	}
	return rates, nil
}

// jobRole is one step of a job, in the host.
func jobRole(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("arguments %q: expected job, step and site", args)
	}
	all := slices.Clone(jobs)
	for _, j := range noteJobs {
		all = append(all, j.job)
	}
	i := slices.IndexFunc(all, func(j *job) bool { return j.name == args[0] })
	if i < 0 {
		return fmt.Errorf("there is no job %q", args[0])
	}
	j := all[i]
	var s site
	if err := json.Unmarshal([]byte(args[2]), &s); err != nil {
		return fmt.Errorf("site: %w", err)
	}
	switch args[1] {
	case stepPrepare:
		if err := os.Mkdir(s.Dir, 0o755); err != nil || j.prepare == nil {
			return err
		}
		return j.prepare(s)
	case stepRun:
		rates, err := j.run(s)
		if err != nil {
			return err
		}
		for _, r := range rates {
			fmt.Println(r)
		}
		return nil
	case stepFinish:
		if j.finish == nil {
			return nil
		}
		return j.finish(s)
	}
	return fmt.Errorf("there is no step %q", args[1])
}

// command runs a program to its end and returns what it printed on its output.
func command(cmd *exec.Cmd) ([]byte, error) {
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s%s", cmd, err, errs.String(), out)
	}
	return out, nil
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// fioJob is a job of fio that runs for a time on files that are there already.
func fioJob(name string, f figure, args ...string) *job {
	f.name = name
	args = append([]string{"--name=" + name}, args...)
	return &job{
		name: name, figures: []figure{f}, needs: []string{"fio"},
		prepare: func(s site) error {
			// In blocks of the job's own size: the size of the first writes decides that
			// of the folios in ext4's page cache, and with it the cost of later ones.
			_, err := fio(s, append(slices.Clone(args), "--create_only=1")...)
			return err
		},
		run: func(s site) ([]float64, error) {
			d, err := fio(s, append(slices.Clone(args), "--time_based", fmt.Sprintf("--runtime=%d", s.Secs))...)
			if err != nil {
				return nil, err
			}
			return []float64{d.IOPS}, nil
		},
	}
}

// sequentialWrite writes a new file and flushes it.
func sequentialWrite(f figure) *job {
	f.name = "seqw"
	return &job{
		name: f.name, figures: []figure{f}, needs: []string{"fio"},
		run: func(s site) ([]float64, error) {
			d, err := fio(s, "--name=seqw", "--rw=write", "--bs=1M", fmt.Sprintf("--size=%dM", s.MB), "--end_fsync=1", "--filename=new")
			if err != nil {
				return nil, err
			}
			return []float64{d.Bytes / 1e6}, os.Remove(filepath.Join(s.Dir, "new"))
		},
	}
}

// warmReads reads a file that is in the page cache, in sequence and at random.
func warmReads(sequential, random figure) *job {
	const file = "warm"
	return &job{
		name: "read", figures: []figure{sequential, random}, needs: []string{"fio"},
		prepare: func(s site) error {
			_, err := fio(s, "--name=lay", "--rw=write", "--bs=1M", fmt.Sprintf("--size=%dM", s.MB), "--filename="+file)
			return err
		},
		run: func(s site) ([]float64, error) {
			if err := readAll(filepath.Join(s.Dir, file)); err != nil {
				return nil, err
			}
			args := []string{"--name=read", fmt.Sprintf("--size=%dM", s.MB), "--filename=" + file, "--time_based", fmt.Sprintf("--runtime=%d", s.Secs)}
			seq, err := fio(s, append(slices.Clone(args), "--rw=read", "--bs=1M")...)
			if err != nil {
				return nil, err
			}
			rnd, err := fio(s, append(args, "--rw=randread", "--bs=4k")...)
			return []float64{seq.Bytes / 1e6, rnd.IOPS}, err
		},
	}
}

func readAll(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f})
	return err
}

// direction is what fio says of reads or of writes.
type direction struct {
	IOPS  float64 `json:"iops"`
	Bytes float64 `json:"bw_bytes"` // a second
}

// fio runs fio in the directory of the job; nothing but the page cache and the
// file system under test takes part (no preallocation, no dropping of caches).
func fio(s site, args ...string) (direction, error) {
	path, err := program("fio")
	if err != nil {
		return direction{}, err
	}
	base := []string{"--directory=" + s.Dir, "--ioengine=psync", "--group_reporting", "--output-format=json", "--fallocate=none",
		"--invalidate=0", "--randrepeat=0", "--norandommap"}
	cmd := exec.Command(path, append(base, args...)...)
	cmd.Dir = os.TempDir() // where it leaves its own files
	out, err := command(cmd)
	if err != nil {
		return direction{}, err
	}
	var r struct {
		Jobs []struct {
			Error       int
			Read, Write direction
		}
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return direction{}, fmt.Errorf("output of fio: %w in %q", err, out)
	}
	if len(r.Jobs) != 1 || r.Jobs[0].Error != 0 {
		return direction{}, fmt.Errorf("output of fio: expected one job without error: %s", out)
	}
	d := r.Jobs[0].Write
	if d.IOPS == 0 {
		d = r.Jobs[0].Read
	}
	return d, nil
}

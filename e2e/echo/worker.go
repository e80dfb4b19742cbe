package echo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/skfs/skfs/e2e/lab"
)

// worker is a process of this package that says "ready", works until its input ends, and
// then says what it saw.
type worker struct {
	p   *lab.Started
	in  *os.File
	out *bufio.Reader
	r   *os.File
}

func startWorker(ctx context.Context, h *lab.Host, role string, args ...string) (worker, error) {
	cmd := h.RoleCommand(context.WithoutCancel(ctx), role, args...)
	r, w, err := os.Pipe()
	if err != nil {
		return worker{}, err
	}
	stdin, in, err := os.Pipe()
	if err != nil {
		return worker{}, errors.Join(err, r.Close(), w.Close())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, w, os.Stderr
	p, err := h.Start(cmd)
	w.Close()
	stdin.Close()
	if err != nil {
		return worker{}, errors.Join(err, r.Close(), in.Close())
	}
	x := worker{p: p, in: in, out: bufio.NewReader(r), r: r}
	line := make(chan error, 1)
	go func() {
		_, err := x.out.ReadString('\n')
		line <- err
	}()
	select {
	case err = <-line:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		x.Kill()
		return worker{}, err
	}
	return x, nil
}

// Kill ends it, whatever it does.
func (x worker) Kill() {
	x.in.Close()
	lab.Process{PID: x.p.PID()}.Kill()
	x.p.Wait()
	x.r.Close()
}

// untilTold is the life of such a process: until its input ends.
func untilTold() context.Context {
	ctx, end := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		end()
	}()
	return ctx
}

// watching is a worker that says a T.
type watching[T any] struct{ worker }

// End ends the work in order, and is what was seen.
func (x *watching[T]) End() (result T, err error) {
	err = x.end(&result)
	return result, err
}

func (x worker) end(result any) error {
	defer x.r.Close()
	x.in.Close()
	err := json.NewDecoder(x.out).Decode(result)
	return errors.Join(err, x.p.Wait())
}

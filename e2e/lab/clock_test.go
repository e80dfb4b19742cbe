package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// timesRole writes what its clocks say, the wall's and the monotonic one in
// nanoseconds, every 10 ms. Other threads of it ask for the time often.
func timesRole([]string) error {
	for range 2 {
		go func() {
			for last := time.Now(); ; last = time.Now() {
				time.Sleep(20 * time.Microsecond)
				if time.Since(last) < 0 {
					fmt.Println("the monotonic clock went back")
				}
			}
		}()
	}
	begun := time.Now()
	for {
		now := time.Now()
		if _, err := fmt.Println(now.UnixNano(), now.Sub(begun).Nanoseconds()); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A process sees its wall clock jump, and its monotonic clock go on.
func TestClockIsSet(t *testing.T) {
	if !CanSetClock {
		t.Skip("the clock of a process can be set on amd64 only")
	}
	_, h, _ := twoHosts(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := h.RoleCommand(context.WithoutCancel(t.Context()), "times")
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	started, err := h.Start(cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer started.Wait()
	defer unix.Kill(started.PID(), unix.SIGKILL)
	lines := bufio.NewScanner(r)
	said := func() (wall, monotonic time.Duration) {
		t.Helper()
		r.SetReadDeadline(time.Now().Add(time.Minute))
		if !lines.Scan() {
			t.Fatalf("the process says no more: %v", lines.Err())
		}
		if _, err := fmt.Sscan(lines.Text(), &wall, &monotonic); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		return wall, monotonic
	}
	wall, monotonic := said()
	zero := wall - monotonic // stays what it is while the clock is not set
	for _, by := range []time.Duration{time.Hour, -time.Hour, 0, time.Hour} {
		if err := (Process{PID: started.PID()}).SetClock(by); err != nil {
			t.Fatal(err)
		}
		const drift = time.Minute // how far the machine's own clocks may part, and what was said before the jump
		for deadline := time.Now().Add(time.Minute); ; {
			before := monotonic
			wall, monotonic = said()
			if step := monotonic - before; step < 0 || step > drift {
				t.Fatalf("the monotonic clock made a step of %v", step)
			}
			if d := wall - monotonic - zero - by; d.Abs() < drift {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("the clock was set by %v, the process is %v off", by, d)
			}
		}
	}
}

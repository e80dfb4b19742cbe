package check

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skfs/skfs/conf"
)

// patience is how long an event may take on a machine that does much else.
const patience = 60 * time.Second

const inNamespace = "SKFS_CHECK_TEST_NETNS"

// TestMain runs the tests in a network namespace of their own, if it may.
func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" || os.Geteuid() != 0 {
		goleak.VerifyTestMain(m)
		return
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	runtime.LockOSThread() // with which Pdeathsig would strike
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "the tests in a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func needNamespace(t *testing.T) {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("a network namespace needs root")
	}
}

// watch runs a checker and returns a function that waits for a result of that value.
func watch(t *testing.T, c conf.Checker, e Env) (await func(value string) Result) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	results := make(chan Result)
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(c, e).Run(ctx, func(r Result) {
			select {
			case results <- r:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the checker does not end")
		}
	})
	return func(value string) Result {
		t.Helper()
		deadline := time.After(patience)
		var last Result
		for {
			select {
			case last = <-results:
				if last.Value == value {
					return last
				}
			case <-deadline:
				t.Fatalf("%s is not told to be %q; told last: %+v", c.Resource(), value, last)
			}
		}
	}
}

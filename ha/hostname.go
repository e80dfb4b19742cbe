package ha

import (
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// startWithHostname starts a command that sees a virtual hostname (§13.8), as do its
// descendants: they are in a UTS namespace of their own, so this holds for every
// program, static ones too, where a preloaded library would not. "" starts it as it is.
func startWithHostname(cmd *exec.Cmd, name string) error {
	if name == "" {
		return cmd.Start()
	}
	started := make(chan error, 1)
	go func() {
		// A child is born into the namespaces of the thread that forks. This one is
		// never unlocked: it ends with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
			started <- fmt.Errorf("virtual hostname %s: unshare: %w", name, err)
			return
		}
		if err := unix.Sethostname([]byte(name)); err != nil {
			started <- fmt.Errorf("virtual hostname %s: %w", name, err)
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}

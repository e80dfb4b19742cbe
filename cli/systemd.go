package cli

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/skfs/skfs/ha"
)

// What the daemon has to do with the systemd that runs it (packaging/units).

// manager is the systemd that started the daemon, if one did.
type manager struct {
	socket   string        // sd_notify(3); "": nobody wants to know
	watchdog time.Duration // within which it wants a sign of life; 0: never
}

// takeManager reads what systemd says to this process, and removes it from the
// environment: applications that scripts start must not take it for their own, and tell
// systemd of themselves in the name of skfs.
func takeManager() (manager, error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return manager{}, fmt.Errorf("watchdog of systemd: %w", err)
	}
	m := manager{os.Getenv("NOTIFY_SOCKET"), interval}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
		"INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MAINPID", "MANAGERPID"} {
		if err := os.Unsetenv(name); err != nil {
			return m, err
		}
	}
	return m, nil
}

// notify sends a state as sd_notify(3) does.
func (m manager) notify(state string) error {
	if m.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

func (m manager) tell(logger *log.Logger, state string) {
	if err := m.notify(state); err != nil {
		logger.Printf("notify systemd: %v", err)
	}
}

// watch tells systemd, if it asks, that the loop of every module answers. One that
// hangs makes systemd restart the daemon.
func (m manager) watch(ctx context.Context, sup *ha.Supervisor) error {
	if m.watchdog == 0 {
		return nil
	}
	t := time.NewTicker(m.watchdog / 3)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := sup.Ping(ctx); err != nil {
			continue // no sign of life from who shows none
		}
		if err := m.notify(daemon.SdNotifyWatchdog); err != nil {
			return fmt.Errorf("watchdog: %w", err)
		}
	}
}

// systemdPatience is how long systemd may take to answer.
const systemdPatience = 10 * time.Second

// unitStops says whether systemd is about to stop a unit for good: because somebody
// asked for it, or because the system goes down. It is not when it restarts the unit,
// or cleans up after a process that has ended.
func unitStops(ctx context.Context, unit string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, systemdPatience)
	defer cancel()
	// Not by the bus, which goes down at the same time.
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return false, fmt.Errorf("ask systemd: %w", err)
	}
	defer conn.Close()
	jobs, err := conn.ListJobsContext(ctx)
	if err != nil {
		return false, fmt.Errorf("ask systemd for its jobs: %w", err)
	}
	for _, j := range jobs {
		if j.Unit == unit {
			return j.JobType == "stop", nil
		}
	}
	return false, nil
}

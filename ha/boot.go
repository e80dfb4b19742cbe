package ha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/skfs/skfs/conf"
)

// What a module has to do with the start of its host: it starts with it (§13.2.3,
// boot and boot_delay), and may restart it (automatic_reboot).

// startsAtBoot says whether the module starts with its host, after what an earlier boot
// has left of it.
func (mc *moduleConf) startsAtBoot(was saved) bool {
	started := was.State.Role != RoleStop || was.State.Rebooted || was.StartAt != 0
	return mc.boot == conf.BootOn || mc.boot == conf.BootAuto && started
}

// bootStart starts the module at startAt because its host was started. A daemon that
// ends before leaves it to the next one.
func (m *module) bootStart(ctx, taskCtx context.Context) {
	delay := m.startAt - boottime()
	m.tasks.Go(func() {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		m.post(ctx, func() {
			if m.startAt == 0 {
				return // an administrator was faster
			}
			m.startAt = 0
			m.step(taskCtx, Asked{Command{Name: "start", By: AtBoot}})
		})
	})
}

// overBoot are the commands after which the module does not start because of its host
// any more.
var overBoot = []string{"start", "prim", "primforce", "second", "secondforce", "stop", "forcestop"}

// readBoot looks whether the command boot has changed its setting, which counts at the
// next start of the host; usersetting.boot shows it.
func (m *module) readBoot() {
	if !m.mc.bootByCommand {
		return
	}
	if b, err := m.paths.BootSetting(m.name); err == nil && b != m.mc.boot {
		mc := *m.mc // tasks read the old one
		mc.boot = b
		m.mc = &mc
		m.publish()
	}
}

// rebootHost asks the init system for a reboot, by the first command that there is.
func rebootHost() error {
	ways := [][]string{{"shutdown", "-r", "now"}, {"reboot"}}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		ways = append([][]string{{"systemctl", "reboot"}}, ways...)
	}
	var errs []error
	for _, way := range ways {
		out, err := exec.Command(way[0], way[1:]...).CombinedOutput()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%v: %w: %.200s", way, err, out))
	}
	return errors.Join(errs...)
}

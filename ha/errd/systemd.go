package errd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// systemd is Services by D-Bus.
type systemd struct {
	conn    *dbus.Conn
	changed chan struct{}
	end     context.CancelFunc
	ended   chan struct{}
}

var _ Services = (*systemd)(nil)

// OpenSystemd connects to the systemd of this host. The connection outlives ctx, which
// limits how long it may take to be made.
func OpenSystemd(ctx context.Context) (_ Services, err error) {
	// godbus closes a connection at the end of the context that it was made with.
	run, cancel := context.WithCancel(context.Background())
	late := context.AfterFunc(ctx, cancel)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	conn, err := dbus.NewWithContext(run)
	if err != nil {
		return nil, fmt.Errorf("systemd does not answer: %w", err)
	}
	if err := conn.Subscribe(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("systemd does not tell of changes: %w", err)
	}
	if !late() {
		conn.Close()
		return nil, fmt.Errorf("systemd does not answer: %w", ctx.Err())
	}
	s := &systemd{conn: conn, changed: make(chan struct{}, 1), end: cancel, ended: make(chan struct{})}
	updates := make(chan *dbus.PropertiesUpdate, 256)
	conn.SetPropertiesSubscriber(updates, make(chan error, 1)) // one that is lost is found by the next poll
	go s.forward(run, updates)
	return s, nil
}

// connectionCheck is how often it is looked whether the connection is there.
const connectionCheck = time.Second

func (s *systemd) forward(ctx context.Context, updates <-chan *dbus.PropertiesUpdate) {
	defer close(s.ended)
	check := time.NewTicker(connectionCheck)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			if s.conn.Connected() {
				continue
			}
			check.Stop()
		case u := <-updates:
			if _, state := u.Changed["ActiveState"]; !state || !strings.HasSuffix(u.UnitName, ".service") {
				continue
			}
		}
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
}

// Running counts what systemd is about to start again after its process ended
// (auto-restart) as ended: that it has is what errd is for. When the whole system goes
// down, what it stops has not failed, and the module is being stopped, too: then it is
// not known.
func (s *systemd) Running(ctx context.Context, name string) (bool, error) {
	p, err := s.conn.GetUnitPropertiesContext(ctx, unitName(name))
	if err != nil {
		return false, err
	}
	active, _ := p["ActiveState"].(string)
	sub, _ := p["SubState"].(string)
	switch active {
	case "active", "reloading", "refreshing":
		return true, nil
	case "activating":
		return !strings.HasPrefix(sub, "auto-restart"), nil
	case "":
		return false, fmt.Errorf("systemd tells no state of %s", unitName(name))
	}
	system, err := s.conn.SystemStateContext(ctx)
	if err != nil {
		return false, err
	}
	if state, _ := system.Value.Value().(string); state == "stopping" {
		return false, errors.New("the system is going down")
	}
	return false, nil
}

// unitName completes the name of a service.
func unitName(name string) string {
	for _, kind := range []string{".service", ".socket", ".target", ".mount", ".timer", ".path", ".scope", ".slice"} {
		if strings.HasSuffix(name, kind) {
			return name
		}
	}
	return name + ".service"
}

func (s *systemd) Changed() <-chan struct{} { return s.changed }

func (s *systemd) Close() {
	s.end()
	<-s.ended
	s.conn.Close()
}

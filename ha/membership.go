package ha

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skfs/skfs/ha/group"
	"golang.org/x/sys/unix"
)

// membership exchanges the messages of one group.Node with the other members, over
// one or several networks. As a heart it is one goroutine on a thread of its own that
// touches neither disk nor log, and holds mu for no system call.
//
// A member that notices that it was late itself (paused, starved) takes nothing that
// it knew for granted: see group.Node.Stalled. One whose clients' networks have no
// carrier is as one that is stopped: what it would agree on with itself alone is of use to
// nobody, and when the cable is plugged in again it would answer for what is the others'
// until it hears them.
type membership struct {
	name     group.Name
	names    []string // of the members, by index
	nets     []*memberNet
	pulse    time.Duration
	patience time.Duration // being later than this is a stall
	kick     eventfd
	wake     chan struct{} // there is something to take
	carrier  func() bool   // nil: there is one always
	cut      bool          // there was none at the last pulse; of the goroutine of run

	mu      sync.Mutex // guards what follows and remarks
	node    *group.Node
	seals   seals
	rekeyed group.Set     // who was heard with the key in force, while there are two
	alive   time.Duration // boottime of the last pulse at which the view was in force
	told    memberView    // as last taken
	deaf    remark
	bare    remark
}

// memberNet is one network of a membership.
type memberNet struct {
	name   string
	socket int
	to     map[int]unix.Sockaddr // by index of the member
	wrong  remark
}

// memberNetConf says who is where on a network.
type memberNetConf struct {
	Name   string
	Local  string         // host:port
	Remote map[int]string // host:port of the others, by index in the sorted list of members
}

// membershipConf is what a membership is made of.
type membershipConf struct {
	Group        string // what it is called on the wire
	Self         string
	Members      []string // sorted
	Nets         []memberNetConf
	Pulse        time.Duration
	MLost, SLost int
	Decide       func(was string, members []group.Member) string
	// Carrier says whether a network of the clients has one. It is called once a pulse,
	// and must not wait for anything. nil: there is one always.
	Carrier func() bool
}

// memberView is what a membership knows at one moment.
type memberView struct {
	View  group.View
	Ready bool      // the view is in force and this node in it
	Heard group.Set // whom this node hears
	Infos []string  // what each says of itself, by index
}

// openMembership binds the sockets. inc and was are as group.New takes them. On error
// everything is closed again.
func openMembership(c membershipConf, s seals, inc uint64, was group.View) (*membership, error) {
	node, err := group.New(group.Config{Self: c.Self, Members: c.Members, MLost: c.MLost, SLost: c.SLost, Decide: c.Decide}, inc, was)
	if err != nil {
		return nil, err
	}
	kick, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	m := &membership{name: group.NewName(c.Group, c.Members), names: c.Members, pulse: c.Pulse, node: node, seals: s, carrier: c.Carrier,
		patience: max(c.Pulse, c.Pulse*time.Duration(min(c.MLost, c.SLost))/4), kick: eventfd(kick), wake: make(chan struct{}, 1)}
	for _, nc := range c.Nets {
		n := &memberNet{name: nc.Name, to: map[int]unix.Sockaddr{}}
		if n.socket, err = udpAt(nc.Local); err == nil {
			m.nets = append(m.nets, n)
			for i, to := range nc.Remote {
				if n.to[i], err = addressOf(to); err != nil {
					break
				}
			}
		}
		if err != nil {
			m.close()
			return nil, fmt.Errorf("membership on network %s at %s: %w", nc.Name, nc.Local, err)
		}
	}
	return m, nil
}

func addressOf(hostport string) (unix.Sockaddr, error) {
	a, err := net.ResolveUDPAddr("udp", hostport)
	if err != nil {
		return nil, err
	}
	return sockaddr(a)
}

func udpAt(hostport string) (int, error) {
	a, err := addressOf(hostport)
	if err != nil {
		return 0, err
	}
	return udpSocket(a)
}

// close frees what openMembership took, after run and after the last call of any
// method.
func (m *membership) close() {
	for _, n := range m.nets {
		unix.Close(n.socket)
	}
	unix.Close(int(m.kick))
}

// run exchanges messages until ctx ends.
func (m *membership) run(ctx context.Context) {
	runtime.LockOSThread() // the thread ends with the goroutine: nobody inherits its priority
	first()
	signalled := make(chan struct{})
	context.AfterFunc(ctx, func() { m.kick.signal(); close(signalled) })
	m.exchange(ctx)
	<-signalled
}

func (m *membership) exchange(ctx context.Context) {
	fds := []unix.PollFd{{Fd: int32(m.kick), Events: unix.POLLIN}}
	for _, n := range m.nets {
		fds = append(fds, unix.PollFd{Fd: int32(n.socket), Events: unix.POLLIN})
	}
	buf := make([]byte, 1<<16)
	expected, due := boottime(), boottime()
	for ctx.Err() == nil {
		now := boottime()
		if now-expected > m.patience {
			m.mu.Lock()
			m.node.Stalled()
			m.mu.Unlock()
		}
		if now >= due {
			m.plugged()
		}
		for _, n := range m.nets {
			m.receive(n, buf)
		}
		if fds[0].Revents != 0 {
			m.kick.clear()
		}
		now = boottime()
		if !m.cut {
			m.turn(now, now >= due)
		}
		if now >= due {
			due = now + m.pulse
		}
		expected = due
		wait := unix.NsecToTimespec(max(due-boottime(), 0).Nanoseconds())
		if _, err := unix.Ppoll(fds, &wait, nil); err != nil {
			for i := range fds {
				fds[i].Revents = 0 // EINTR: nothing is known
			}
		}
	}
}

// plugged looks whether there is a carrier. Without one this member stands still: no pulse
// passes, and nothing is sent or heard, so that its lease ends and the others go on
// without it. With one again it is as after a pause.
func (m *membership) plugged() {
	if m.carrier == nil {
		return
	}
	was := m.cut
	m.cut = !m.carrier()
	if m.cut == was {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	text := ""
	if m.cut {
		text = "no interface with virtual addresses has a carrier: this node leaves them to the others until one has"
	} else {
		m.node.Stalled()
	}
	m.remark(&m.bare, text)
}

// turn lets a pulse pass if one is due, and sends what is to be sent.
func (m *membership) turn(now time.Duration, due bool) {
	m.mu.Lock()
	if due {
		m.node.Tick()
		if m.node.Ready() {
			m.alive = now
		}
	}
	var data []byte
	if m.node.Urgent() || due {
		data = m.seals.seal(m.name.Encode(m.node.Message()))
	}
	m.notice()
	m.mu.Unlock()
	if data == nil {
		return
	}
	for _, n := range m.nets {
		for i, to := range n.to {
			switch err := unix.Sendto(n.socket, data, 0, to); err {
			case nil, unix.ECONNREFUSED:
			default:
				m.complain(n, fmt.Sprintf("message to %s on network %s cannot be sent: %v", m.names[i], n.name, err))
			}
		}
	}
}

// notice wakes who takes, when there is something new. mu is held.
func (m *membership) notice() {
	deaf := ""
	if d := m.node.Deaf(); d != 0 && m.node.View().Epoch.N != 0 {
		deaf = fmt.Sprintf("%s heard by this node, but not hearing it: what this node sends is lost", m.list(d))
	}
	m.remark(&m.deaf, deaf)
	now := m.look()
	if now.View != m.told.View || now.Ready != m.told.Ready || now.Heard != m.told.Heard || !slices.Equal(now.Infos, m.told.Infos) {
		m.told = now
		m.signal()
	}
}

func (m *membership) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// remark notes something for the log. mu is held.
func (m *membership) remark(r *remark, text string) {
	if r.text = text; text != r.said {
		m.signal()
	}
}

func (m *membership) look() memberView {
	v := memberView{View: m.node.View(), Ready: m.node.Ready(), Heard: m.node.Heard()}
	for i := range m.names {
		v.Infos = append(v.Infos, m.node.Row(i).Info)
	}
	return v
}

// take returns what is known now, and complaints for the log.
func (m *membership) take() (v memberView, wrong []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nets {
		wrong = n.wrong.take(wrong)
	}
	return m.look(), m.bare.take(m.deaf.take(wrong))
}

// aliveAt is the boottime of the last pulse at which the view was in force; 0 if it
// was not yet.
func (m *membership) aliveAt() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alive
}

// tell sets what this node says of itself.
func (m *membership) tell(info string) {
	m.mu.Lock()
	m.node.SetInfo(info)
	m.mu.Unlock()
	m.kick.signal()
}

// trust sets the cluster's key. The one from before counts until all that are heard
// have used the new one.
func (m *membership) trust(s seals) {
	m.mu.Lock()
	m.seals, m.rekeyed = m.seals.then(s), 0
	m.mu.Unlock()
}

// leave tells the others that this node is gone, after run has ended. A datagram may
// be lost, so it is said thrice; who hears none of it finds out by silence.
func (m *membership) leave() {
	m.mu.Lock()
	m.node.Leave()
	m.mu.Unlock()
	for range 3 {
		m.turn(boottime(), true)
	}
}

func (m *membership) list(s group.Set) string {
	var names []string
	for _, i := range s.Indices() {
		names = append(names, m.names[i])
	}
	return strings.Join(names, " ")
}

func (m *membership) complain(n *memberNet, text string) {
	m.mu.Lock()
	m.remark(&n.wrong, text)
	m.mu.Unlock()
}

// receive takes what has arrived, at most as much as one round should.
func (m *membership) receive(n *memberNet, buf []byte) {
	for range 8 * group.MaxMembers {
		size, from, err := unix.Recvfrom(n.socket, buf, 0)
		if err == unix.EAGAIN {
			return
		}
		if err != nil || m.cut {
			continue // an ICMP error of an earlier send; or nothing is heard, see plugged
		}
		m.datagram(n, buf[:size], senderOf(from))
	}
}

func (m *membership) datagram(n *memberNet, data []byte, from string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	body, with, err := m.seals.open(data)
	var msg group.Message
	if err == nil {
		msg, err = m.name.Decode(body)
	}
	if err != nil {
		m.remark(&n.wrong, fmt.Sprintf("message from %s on network %s: %v", from, n.name, err))
		return
	}
	if with == 0 && len(m.seals) > 1 {
		if m.rekeyed = m.rekeyed.With(msg.From).With(m.node.Self()); m.node.Heard()&^m.rekeyed == 0 {
			m.seals = m.seals[:1]
		}
	}
	m.node.Hear(msg)
}

package conf

import (
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Mode says what kind of module it is.
type Mode string

// The modes of a module (guide §13.2).
const (
	Mirror Mode = "mirror"
	Farm   Mode = "farm"
	Light  Mode = "light"
)

// Boot says whether a module starts with its node.
type Boot string

// The values of boot (guide §13.2.3).
const (
	BootOn     Boot = "on"
	BootOff    Boot = "off"
	BootAuto   Boot = "auto"   // if it was started before
	BootIgnore Boot = "ignore" // as the command boot says
)

// Async says when the secondary acknowledges a change.
type Async string

// The values of async (guide §13.6.3).
const (
	AsyncSecond Async = "second" // when it has received it
	AsyncNone   Async = "none"   // when it is on its disk
)

// Module is a checked userconfig.xml (guide §13).
type Module struct {
	Mode         Mode
	Boot         Boot
	BootDelay    time.Duration
	Failover     bool
	DefaultPrim  string        // DefaultAlone, DefaultLast, or the name of a node
	MaxLoop      int           // automatic restarts before the module stops
	LoopInterval time.Duration // in which they are counted; 0: never
	Reboot       bool          // automatic_reboot: an automatic stopstart reboots the host instead
	Heart        *Heart        // nil unless Mode is Mirror
	Farm         *FarmTopology // nil unless Mode is Farm
	RFS          *RFS          // nil: nothing is replicated
	User         *User         // nil: no scripts are called
	VIP          *VIP          // nil: no virtual address
	Rules        Failover
	Checkers     []Checker // of <check>; <vip> asks for more, see VirtualAddr
	VHost        *VHost    // nil: scripts see the host's name
	Errd         *Errd     // nil: no processes are monitored

	Env      map[string]string // environment variables that %name% was expanded to
	Warnings Problems          // what works, but hardly as meant
}

// Heart is how the two nodes of a mirror module watch each other.
type Heart struct {
	Port       int // UDP; 0: as the module's id gives it, see Ports
	Pulse      time.Duration
	Timeout    time.Duration
	Heartbeats []Heartbeat // at least one
}

// Heartbeat is one network on which they do. Its resource is heartbeat.Ident.
type Heartbeat struct {
	Name    string // of the lan
	Ident   string
	Port    int // UDP; 0: as the module's id gives it
	Pulse   time.Duration
	Timeout time.Duration

	PermanentARP bool // the peer's link address is fixed while it is heard
}

// Values of Module.DefaultPrim that name no node (guide §13.2.3).
const (
	DefaultAlone = "alone"    // whoever serves goes on
	DefaultLast  = "lastprim" // who was primary before it was stopped is again
)

// FlowIdent is the ident of the heartbeat on the replication network.
const FlowIdent = "flow"

// RFS is what a mirror module replicates and how.
type RFS struct {
	Async         Async
	ACL           bool
	LockTimeout   time.Duration // an operation takes longer: the primary goes on alone
	SendTimeout   time.Duration // a packet cannot be sent for longer: the same
	NbRemConn     int           // TCP connections between the nodes
	NbRei         int           // reintegration workers
	ZoneSize      int64         // bytes (ruzone_blocksize)
	ReiPacketSize int64         // bytes
	ReiTimeout    time.Duration
	ReiCommit     int           // packets between flushes inside a file; 0: only at its end
	ReiDetail     bool          // log each file
	ReiAllowedBW  int64         // KB/s of reintegration; 0: no limit
	CheckTime     time.Duration // for a probe of the mount
	CheckInterval time.Duration // between probes
	SyncDelta     time.Duration // a second this long out of date may become primary; 0: none may
	SyncAt        string        // when the second is brought up to date, as in a crontab; "": it always is
	Flow          string        // the lan of the stream; always one of the heartbeats' or of <flow>
	Replicated    []Replicated  // at least one; none lies in another
}

// Replicated is one replicated directory.
type Replicated struct {
	Dir           string // absolute and clean
	ReadOnly      bool   // on the secondary
	NotReplicated []NotReplicated
	ToCheck       []string // relative paths that must exist before replication starts
	At            Pos      // of dir
}

// User says how scripts are run.
type User struct {
	NiceStopTimeout  time.Duration // of stop_xx
	ForceStopTimeout time.Duration // of stop_xx force
	Logging          bool          // their output goes to userlog.ulog
	UserLogSize      int64         // bytes from which the file is emptied at start
	Vars             []Var         // for their environment
}

// Var is an environment variable.
type Var struct{ Name, Value string }

// ParseUserConfig reads a userconfig.xml for a node of cluster c. A %name% that
// no macro defines is taken from the environment of this process. The error is
// of type Problems unless reading failed; file is the name it shows.
func ParseUserConfig(file string, r io.Reader, c *Cluster) (*Module, error) {
	return parseUserConfig(file, r, c, os.LookupEnv)
}

// ReadUserConfig parses the file at path.
func ReadUserConfig(path string, c *Cluster) (*Module, error) {
	return readUserConfig(path, c, os.LookupEnv)
}

func readUserConfig(path string, c *Cluster, env func(string) (string, bool)) (*Module, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseUserConfig(path, f, c, env)
}

func parseUserConfig(file string, r io.Reader, c *Cluster, env func(string) (string, bool)) (*Module, error) {
	s, err := newScanner(file, r)
	if err != nil {
		return nil, err
	}
	m := &Module{Env: map[string]string{}}
	macros := map[string]string{}
	s.expand = func(v string) (string, []string) { return expand(v, macros, env, m.Env) }
	s.opened = func(n *node) {
		switch n.tag.name {
		case "macro":
			s.macro(n, macros)
		case "service":
			s.mode = modeNames[n.str("mode")]
		}
	}
	doc := s.document(userconfigTags())
	if doc == nil {
		return nil, s.err()
	}
	if service := doc.one("service"); service != nil {
		s.service(service, m, c)
	}
	if err := s.err(); err != nil {
		return nil, err
	}
	return m, nil
}

var (
	validEnv = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	macroUse = regexp.MustCompile(`%([A-Za-z_][A-Za-z0-9_]*)%`)
)

func (s *scanner) macro(n *node, macros map[string]string) {
	name := n.str("name")
	if !n.has("name") || !n.has("value") {
		return
	}
	if !validEnv.MatchString(name) {
		s.addf(n.at("name"), "macro name %q: expected letters, digits and '_', the first no digit", name)
		return
	}
	if _, dup := macros[name]; dup {
		s.addf(n.at("name"), "macro %s is defined twice", name)
	}
	macros[name] = n.str("value")
}

// expand replaces %name% by the macro, else by the environment variable of that
// name. What it takes from the environment it notes in used.
func expand(v string, macros map[string]string, env func(string) (string, bool), used map[string]string) (string, []string) {
	var missing []string
	out := macroUse.ReplaceAllStringFunc(v, func(m string) string {
		name := m[1 : len(m)-1]
		if v, ok := macros[name]; ok {
			return v
		}
		if v, ok := env(name); ok {
			used[name] = v
			return v
		}
		missing = append(missing, name)
		return m
	})
	return out, missing
}

func (s *scanner) service(n *node, m *Module, c *Cluster) {
	m.Mode = Mode(n.str("mode"))
	m.Boot = Boot(n.str("boot"))
	m.BootDelay = n.dur("boot_delay", time.Second)
	m.Failover = n.on("failover")
	m.DefaultPrim = n.str("defaultprim")
	if d := m.DefaultPrim; n.has("defaultprim") && d != DefaultAlone && d != DefaultLast && !slices.Contains(c.Nodes(), d) {
		s.addf(n.at("defaultprim"), "defaultprim=%q: no node of cluster.xml is called so%s", d,
			suggest(d, append([]string{DefaultAlone, DefaultLast}, c.Nodes()...)))
	}
	m.MaxLoop = int(n.num("maxloop"))
	m.LoopInterval = n.dur("loop_interval", time.Hour)
	m.Reboot = n.on("automatic_reboot")
	if h := n.one("heart"); h != nil {
		m.Heart = s.heart(h, c)
	} else if m.Mode == Mirror && !n.partial {
		s.addf(n.pos, "a mirror module needs <heart> with at least one <heartbeat>")
	}
	if f := n.one("farm"); f != nil {
		m.Farm = s.farm(f, c)
	} else if m.Mode == Farm && !n.partial {
		s.addf(n.pos, "a farm module needs <farm> with at least one <lan>")
	}
	if r := n.one("rfs"); r != nil {
		m.RFS = s.rfs(r, m, c)
	}
	if u := n.one("user"); u != nil {
		m.User = s.user(u)
	}
	if v := n.one("vip"); v != nil {
		m.VIP = s.vip(v, m)
	}
	if k := n.one("check"); k != nil {
		s.checkers(k, m)
	}
	if v := n.one("vhost"); v != nil {
		m.VHost = s.vhost(v, m)
	}
	if e := n.one("errd"); e != nil {
		m.Errd = s.errd(e, m)
	}
	m.Rules = s.failover(n.one("failover"), n.pos, m)
	if m.RFS == nil && m.Heart != nil && m.Heart.flow() != nil {
		m.Warnings.addf(n.one("heart").pos, "a heartbeat has ident=%q but there is no <rfs>: the module will stay in WAIT", FlowIdent)
	}
}

// flow returns the heartbeat on the replication network, if one is named so.
func (h *Heart) flow() *Heartbeat {
	for i := range h.Heartbeats {
		if h.Heartbeats[i].Ident == FlowIdent {
			return &h.Heartbeats[i]
		}
	}
	return nil
}

func (s *scanner) heart(n *node, c *Cluster) *Heart {
	h := &Heart{Port: int(n.num("port")), Pulse: n.dur("pulse", time.Millisecond), Timeout: n.dur("timeout", time.Millisecond)}
	s.delays(n, h.Pulse, h.Timeout)
	idents := map[string]bool{}
	for _, b := range n.all("heartbeat") {
		hb := Heartbeat{Name: s.lanOf(b, c), Ident: b.str("ident"), Port: h.Port, Pulse: h.Pulse, Timeout: h.Timeout, PermanentARP: n.on("permanent_arp")}
		if hb.Ident == "" {
			hb.Ident = hb.Name
		}
		s.needsTwo(b, c.Lan(hb.Name), Mirror)
		if b.has("port") {
			hb.Port = int(b.num("port"))
		}
		if b.has("permanent_arp") {
			hb.PermanentARP = b.on("permanent_arp")
		}
		if b.has("pulse") {
			hb.Pulse = b.dur("pulse", time.Millisecond)
		}
		if b.has("timeout") {
			hb.Timeout = b.dur("timeout", time.Millisecond)
		}
		if b.has("pulse") || b.has("timeout") {
			s.delays(b, hb.Pulse, hb.Timeout)
		}
		if hb.Ident != "" && idents[hb.Ident] {
			s.addf(b.at("ident"), "two heartbeats are called %s: give each an ident of its own", hb.Ident)
		}
		idents[hb.Ident] = true
		h.Heartbeats = append(h.Heartbeats, hb)
	}
	return h
}

// needsTwo refuses the network of a cluster of one node, which is enough for light
// modules only (guide §6.2).
func (s *scanner) needsTwo(n *node, l *Lan, mode Mode) {
	if l != nil && len(l.Nodes) < 2 {
		s.addf(n.pos, "lan %s has the node %s only: a %s module runs on two at least", l.Name, l.Nodes[0].Name, mode)
	}
}

func (s *scanner) delays(n *node, pulse, timeout time.Duration) {
	if timeout <= pulse {
		s.addf(n.at("timeout"), "timeout is %d ms and pulse %d ms: a timeout shorter than the delay between two heartbeats always strikes",
			timeout.Milliseconds(), pulse.Milliseconds())
	}
}

// lanOf finds the network that <heartbeat> or <flow> names: by name, or in the
// syntax before 7.2 by the addresses of both servers.
func (s *scanner) lanOf(n *node, c *Cluster) string {
	servers := n.all("server")
	if n.has("name") {
		if len(servers) > 0 {
			s.addf(servers[0].pos, "<%s> has both name and <server>: expected one of them", n.tag.name)
		}
		return s.lanByName(n, c)
	}
	if len(servers) == 0 {
		s.addf(n.pos, "<%s> lacks attribute name: the name of a lan of cluster.xml", n.tag.name)
		return ""
	}
	for i := range c.Lans {
		l := &c.Lans[i]
		has := func(srv *node) bool {
			return slices.ContainsFunc(l.Nodes, func(n Node) bool {
				return n.Addr == srv.str("addr") || n.Name == srv.str("addr")
			})
		}
		if l.Framework && len(servers) == 2 && has(servers[0]) && has(servers[1]) {
			return l.Name
		}
	}
	s.addf(n.pos, "no lan of cluster.xml has both <server> addresses: use <%s name=\"…\"> with the name of a lan (%s)",
		n.tag.name, strings.Join(c.LanNames(true), ", "))
	return ""
}

// lanByName is the network that the attribute name says.
func (s *scanner) lanByName(n *node, c *Cluster) string {
	lan := n.str("name")
	switch l := c.Lan(lan); {
	case lan == "": // wrong, and reported as such
	case l == nil:
		s.addf(n.at("name"), "lan %s is not in cluster.xml%s", lan, suggest(lan, c.LanNames(true)))
	case !l.Framework:
		s.addf(n.at("name"), "lan %s has framework=\"off\" in cluster.xml: a module cannot use it%s", lan, suggest(lan, c.LanNames(true)))
	}
	return lan
}

func (s *scanner) rfs(n *node, m *Module, c *Cluster) *RFS {
	r := &RFS{
		Async:         Async(n.str("async")),
		ACL:           n.on("acl"),
		LockTimeout:   n.dur("locktimeout", time.Second),
		SendTimeout:   n.dur("sendtimeout", time.Second),
		NbRemConn:     int(n.num("nbremconn")),
		NbRei:         int(n.num("nbrei")),
		ReiPacketSize: 8 << 20,
		ReiTimeout:    n.dur("reitimeout", time.Second),
		ReiCommit:     int(n.num("reicommit")),
		ReiDetail:     n.on("reidetail"),
		ReiAllowedBW:  n.num("reiallowedbw"),
		CheckTime:     n.dur("checktime", time.Millisecond),
		CheckInterval: n.dur("checkintv", time.Second),
	}
	if p := n.num("packetsize"); p > 0 && p < r.ReiPacketSize {
		r.ReiPacketSize = p
	}
	if n.has("reipacketsize") {
		r.ReiPacketSize = n.num("reipacketsize")
	}
	r.ZoneSize = 8 << 20
	if n.has("reipacketsize") {
		r.ZoneSize = r.ReiPacketSize
	}
	if n.has("ruzone_blocksize") {
		if r.ZoneSize = n.num("ruzone_blocksize"); r.ReiPacketSize > 0 && r.ZoneSize%r.ReiPacketSize != 0 {
			s.addf(n.at("ruzone_blocksize"), "ruzone_blocksize=%q is no multiple of reipacketsize (%d)", n.str("ruzone_blocksize"), r.ReiPacketSize)
		}
	}
	if d := n.num("syncdelta"); d > 1 { // 0 and 1 mean none
		r.SyncDelta = time.Duration(d) * time.Minute
	}
	if n.has("syncat") {
		r.SyncAt = n.str("syncat")
		if _, err := ParseSchedule(r.SyncAt); err != nil {
			s.addf(n.at("syncat"), "syncat=%q: %v", r.SyncAt, err)
		}
	}
	s.flow(n, r, m, c)
	for _, d := range n.all("replicated") {
		s.replicated(d, r)
	}
	return r
}

// flow finds the network of the stream: <flow>, else the heartbeat with
// ident="flow", else the first heartbeat.
func (s *scanner) flow(n *node, r *RFS, m *Module, c *Cluster) {
	if m.Heart != nil && len(m.Heart.Heartbeats) > 0 {
		r.Flow = m.Heart.Heartbeats[0].Name
		if hb := m.Heart.flow(); hb != nil {
			r.Flow = hb.Name
		}
	}
	f := n.one("flow")
	if f == nil {
		return
	}
	lan := s.lanOf(f, c)
	if m.Heart != nil && m.Heart.flow() != nil && m.Heart.flow().Name != lan {
		m.Warnings.addf(f.pos, "<flow> uses lan %s, the heartbeat with ident=%q lan %s: the rules about that heartbeat will not speak of the replication network",
			lan, FlowIdent, m.Heart.flow().Name)
	}
	r.Flow = lan
}

func (s *scanner) replicated(n *node, r *RFS) {
	dir := path.Clean(n.str("dir"))
	switch {
	case !n.has("dir"): // reported
	case !path.IsAbs(dir):
		s.addf(n.at("dir"), "dir=%q: expected an absolute path", n.str("dir"))
	case dir == "/":
		s.addf(n.at("dir"), "dir=%q: the root of the system cannot be replicated", n.str("dir"))
	default:
		for _, o := range r.Replicated {
			if within(dir, o.Dir) || within(o.Dir, dir) {
				s.addf(n.at("dir"), "replicated directories %s and %s lie in each other: replicate the outer one only", dir, o.Dir)
			}
		}
	}
	d := Replicated{At: n.at("dir"), Dir: dir, ReadOnly: n.has("mode")}
	for _, x := range n.all("notreplicated") {
		var nr NotReplicated
		switch {
		case x.has("path") == x.has("regexpath"):
			s.addf(x.pos, "<notreplicated> has both path and regexpath, or neither: expected one of them")
			continue
		case x.has("path"):
			nr.Path = s.relative(x)
		default:
			re, err := regexp.CompilePOSIX("^(" + x.str("regexpath") + ")$")
			if err != nil {
				s.addf(x.at("regexpath"), "regexpath=%q: %v", x.str("regexpath"), err)
				continue
			}
			nr.Regexp = re
		}
		d.NotReplicated = append(d.NotReplicated, nr)
	}
	for _, x := range n.all("tocheck") {
		d.ToCheck = append(d.ToCheck, s.relative(x))
	}
	if path.IsAbs(dir) && dir != "/" { // no later one shall be compared with a wrong one
		r.Replicated = append(r.Replicated, d)
	}
}

// relative reads a path that must lie below the replicated directory.
func (s *scanner) relative(n *node) string {
	p := n.str("path")
	if n.has("path") && (!filepath.IsLocal(p) || path.Clean(p) == ".") {
		s.addf(n.at("path"), "path=%q: expected a path below the replicated directory, relative to it", p)
	}
	return path.Clean(p)
}

// within says whether path a is b or lies below it. Both are clean and absolute.
func within(a, b string) bool {
	return a == b || strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/")
}

func (s *scanner) user(n *node) *User {
	u := &User{
		NiceStopTimeout:  n.dur("nicestoptimeout", time.Second),
		ForceStopTimeout: n.dur("forcestoptimeout", time.Second),
		Logging:          n.str("logging") == "userlog",
		UserLogSize:      n.num("userlogsize") << 10,
	}
	for _, v := range n.all("var") {
		name := v.str("name")
		if v.has("name") && !validEnv.MatchString(name) {
			s.addf(v.at("name"), "variable name %q: expected letters, digits and '_', the first no digit", name)
		}
		if strings.HasPrefix(name, "SAFE") && slices.Contains(scriptVars, name) {
			s.addf(v.at("name"), "variable %s is set by skfs itself", name)
		}
		if slices.ContainsFunc(u.Vars, func(o Var) bool { return o.Name == name }) {
			s.addf(v.at("name"), "variable %s is defined twice", name)
		}
		u.Vars = append(u.Vars, Var{name, v.str("value")})
	}
	return u
}

// scriptVars are the variables that every script gets (guide §14.3).
var scriptVars = []string{"SAFE", "SAFEVAR", "SAFEMODULE", "SAFEBIN", "SAFEUSERBIN", "SAFEUSERVAR"}

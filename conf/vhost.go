package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// VHost is the hostname that the application sees (guide §13.8).
type VHost struct {
	Name    string
	EnvFile string   // absolute, or relative to SAFEUSERBIN
	When    HostWhen // where it sees it; else it sees the host's own
}

// HostWhen says on which servers the virtual hostname holds.
type HostWhen string

// The values of when.
const (
	HostPrim   HostWhen = "prim"   // PRIM and ALONE
	HostSecond HostWhen = "second" // SECOND
	HostBoth   HostWhen = "both"   // wherever the application runs
)

// maxHostname is the kernel's limit.
const maxHostname = 64

func vhostTags() *tag {
	name := &tag{name: "virtualhostname", attrs: []attr{
		{name: "name", must: true},
		{name: "envfile", must: true},
		{name: "when", kind: oneOf, def: "prim", values: []string{"prim", "second", "both"}},
	}}
	return &tag{name: "vhost", children: []child{{name, 1, 1}}}
}

func (s *scanner) vhost(n *node, m *Module) *VHost {
	h := n.one("virtualhostname")
	if h == nil {
		return nil // reported
	}
	v := &VHost{Name: h.str("name"), EnvFile: h.str("envfile"), When: HostWhen(h.str("when"))}
	if h.has("name") && (len(v.Name) > maxHostname || !validHost.MatchString(v.Name)) {
		s.addf(h.at("name"), "name=%q: expected a hostname of at most %d letters, digits, '-' and '.'", v.Name, maxHostname)
	}
	if h.has("envfile") && !filepath.IsAbs(v.EnvFile) && (!filepath.IsLocal(v.EnvFile) || filepath.Clean(v.EnvFile) == ".") {
		s.addf(h.at("envfile"), "envfile=%q: expected a path below SAFEUSERBIN, relative to it, or an absolute one", v.EnvFile)
	}
	if m.Mode != Mirror && v.When != HostBoth {
		m.Warnings.addf(h.pos, "a %s module is never primary or second: the virtual hostname has no effect without when=%q", m.Mode, HostBoth)
	}
	return v
}

// envHeader begins each such file.
const envHeader = "# Written by \"config -m "

// envText is the file that scripts source. They run in a UTS namespace with the right
// name already, whether they source it or not; what remains is the variable that some
// shells set before.
func (v *VHost) envText(am string) []byte {
	return fmt.Appendf(nil, envHeader+`%s": the virtual hostname %s. Scripts source it.
HOSTNAME=$(cat /proc/sys/kernel/hostname)
export HOSTNAME
`, am, v.Name)
}

// writeEnv writes the file for scripts; userBin is the directory of a configuration
// that is not in force yet.
func (v *VHost) writeEnv(am, userBin string) error {
	path := v.EnvFile
	if !filepath.IsAbs(path) {
		path = filepath.Join(userBin, path)
	}
	switch old, err := os.ReadFile(path); {
	case err == nil && bytes.Equal(old, v.envText(am)):
		return nil
	case err == nil && !bytes.HasPrefix(old, []byte(envHeader)), err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("envfile %s of <virtualhostname> is another file already: name one that can be written", v.EnvFile)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return writeFile(path, v.envText(am), 0o755)
}

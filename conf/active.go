package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Active is the configuration that a module runs with: the last that Apply put
// in force.
type Active struct {
	Name          string
	ID            int
	Signature     Signature
	Date          time.Time
	Module        *Module
	BootByCommand bool // Module.Boot is what the command boot has set
}

// Active returns the configuration in force of module am. ErrNotInstalled and
// ErrNotConfigured tell why there is none; any other error means that it does
// not fit the cluster any more (or was damaged). With boot="ignore" the
// module's Boot is what SetBoot has set.
func (p Paths) Active(am string, c *Cluster) (*Active, error) {
	id, err := p.ModuleID(am)
	if err != nil {
		return nil, err
	}
	info, err := p.readActiveInfo(am)
	if err != nil {
		return nil, err
	}
	// Variables come from the time of Apply: what was checked is what runs,
	// whatever the environment of this process is.
	env := func(name string) (string, bool) { v, ok := info.env[name]; return v, ok }
	m, err := readUserConfig(p.ActiveConfig(am), c, env)
	if err != nil {
		return nil, err
	}
	byCommand := m.Boot == BootIgnore
	if byCommand {
		if m.Boot, err = p.BootSetting(am); err != nil {
			return nil, err
		}
	}
	return &Active{Name: am, ID: id, Signature: info.signature, Date: info.date, Module: m, BootByCommand: byCommand}, nil
}

// Configured says whether module am has an active configuration, usable or not.
func (p Paths) Configured(am string) bool {
	_, err := os.Stat(p.ActiveInfo(am))
	return err == nil
}

// Info tells the active configuration of a module from the one under
// SAFE/modules, which may have been edited since.
type Info struct {
	Active, Current         Signature // Active "": not configured
	ActiveDate, CurrentDate time.Time
}

// Info returns both signatures of module am.
func (p Paths) Info(am string) (Info, error) {
	var i Info
	if _, err := p.ModuleID(am); err != nil {
		return i, err
	}
	var err error
	if i.Current, i.CurrentDate, err = treeSignature(p.ModuleDir(am)); err != nil {
		return i, err
	}
	a, err := p.readActiveInfo(am)
	if errors.Is(err, ErrNotConfigured) {
		return i, nil
	}
	i.Active, i.ActiveDate = a.signature, a.date
	return i, err
}

// Check parses the current configuration of module am, SAFE/modules/AM, and
// checks it against the rest of the node. Nothing is changed.
func (p Paths) Check(am string, c *Cluster) (*Module, error) {
	if _, err := p.ModuleID(am); err != nil {
		return nil, err
	}
	return p.checkTree(am, p.ModuleDir(am), c)
}

func (p Paths) checkTree(am, dir string, c *Cluster) (*Module, error) {
	file := filepath.Join(dir, "conf/userconfig.xml")
	m, err := ReadUserConfig(file, c)
	if err != nil {
		return nil, err
	}
	var ps Problems
	if m.Errd != nil {
		m.Errd.checkHandlers(filepath.Join(dir, "bin"), &ps)
	}
	if m.RFS != nil {
		if err := p.checkReplicated(am, m, c, &ps); err != nil {
			return nil, err
		}
	}
	if err := ps.err(); err != nil {
		return nil, err
	}
	return m, nil
}

// checkReplicated compares the directories that a module replicates with what is
// used already.
func (p Paths) checkReplicated(am string, m *Module, c *Cluster, ps *Problems) error {
	for _, d := range m.RFS.Replicated {
		for _, own := range []string{p.Safe, p.SafeVar} {
			if within(own, d.Dir) || within(d.Dir, own) {
				ps.addf(d.At, "replicated directory %s and %s, which skfs itself uses, lie in each other", d.Dir, own)
			}
		}
	}
	others, err := p.Installed()
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Name == am {
			continue
		}
		a, err := p.Active(o.Name, c)
		if err != nil || a.Module.RFS == nil {
			continue // not configured, or reported when it is
		}
		for _, d := range m.RFS.Replicated {
			for _, od := range a.Module.RFS.Replicated {
				if within(d.Dir, od.Dir) || within(od.Dir, d.Dir) {
					ps.addf(d.At, "replicated directory %s and %s of module %s lie in each other", d.Dir, od.Dir, o.Name)
				}
			}
		}
	}
	return nil
}

// Apply checks the current configuration of module am and makes it the active
// one. Old or new, whole, is in force whenever a crash comes. allow, which may
// be nil, sees the new configuration before it takes effect and can refuse it.
func (p Paths) Apply(am string, c *Cluster, now time.Time, allow func(*Module) error) (*Active, error) {
	unlock, err := p.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	id, err := p.ModuleID(am)
	if err != nil {
		return nil, err
	}
	fresh := filepath.Join(p.ActiveModules(), "."+am+".new") // no module name starts with a dot
	if err := os.RemoveAll(fresh); err != nil {
		return nil, err
	}
	defer os.RemoveAll(fresh)
	if err := os.MkdirAll(fresh, 0o755); err != nil {
		return nil, err
	}
	// Copy first and check the copy: what an editor does meanwhile to the
	// original cannot slip in unchecked.
	for _, dir := range configDirs {
		if err := copyTree(filepath.Join(p.ModuleDir(am), dir), filepath.Join(fresh, dir), dir == "bin"); err != nil {
			return nil, err
		}
	}
	m, err := p.checkTree(am, fresh, c)
	if err != nil {
		return nil, relocate(err, fresh, p.ModuleDir(am))
	}
	if allow != nil {
		if err := allow(m); err != nil {
			return nil, err
		}
	}
	info := activeInfo{date: now.Truncate(time.Second), env: m.Env}
	if info.signature, _, err = treeSignature(fresh); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(fresh, "active"), encodeActive(info), 0o644); err != nil {
		return nil, err
	}
	if m.VHost != nil { // after the signature: the file is no part of what the administrator edits
		if err := m.VHost.writeEnv(am, filepath.Join(fresh, "bin")); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(p.UserVar(am), 0o755); err != nil {
		return nil, err
	}
	if err := syncTree(fresh); err != nil {
		return nil, err
	}
	if err := swapDir(fresh, p.ActiveDir(am)); err != nil {
		return nil, err
	}
	return &Active{Name: am, ID: id, Signature: info.signature, Date: info.date, Module: m}, nil
}

// Deconfigure takes the active configuration of module am away.
func (p Paths) Deconfigure(am string) error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := p.ModuleID(am); err != nil {
		return err
	}
	return p.removeActive(am)
}

// removeActive renames first: a crash leaves no half of a configuration.
func (p Paths) removeActive(am string) error {
	trash := filepath.Join(p.ActiveModules(), "."+am+".old")
	if err := os.RemoveAll(trash); err != nil {
		return err
	}
	if err := os.Rename(p.ActiveDir(am), trash); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := syncDir(p.ActiveModules()); err != nil {
		return err
	}
	return os.RemoveAll(trash)
}

// relocate rewrites the places of problems from the checked copy to the file
// that the administrator edits.
func relocate(err error, from, to string) error {
	var ps Problems
	if !errors.As(err, &ps) {
		return err
	}
	out := slices.Clone(ps)
	for i := range out {
		if rel, ok := strings.CutPrefix(out[i].File, from); ok {
			out[i].File = to + rel
		}
	}
	return out
}

// copyTree copies the regular files below from; a from that does not exist is
// an empty tree. Scripts are made executable: packages of other systems often
// lack the bit, and a script that cannot run is found out during a failover.
func copyTree(from, to string, scripts bool) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == from {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(dest, 0o755)
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file: a module holds files and directories only", path)
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		mode := st.Mode().Perm()
		if scripts {
			mode |= 0o555
		}
		return copyFile(path, dest, mode)
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(mode), out.Close())
}

// activeInfo is what the file "active" of an active configuration says. Text:
//
//	line 1     skfs active 1                  name and version of the format
//	line       signature <hex>
//	line       date <seconds since 1970>
//	lines      env <name> <value, Go quoted>  variables that %name% stood for, sorted
//	last line  crc32c <8 hex digits> of all bytes before this line
type activeInfo struct {
	signature Signature
	date      time.Time
	env       map[string]string
}

const activeHeader = "skfs active 1\n"

func encodeActive(a activeInfo) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%ssignature %s\ndate %d\n", activeHeader, a.signature, a.date.Unix())
	names := make([]string, 0, len(a.env))
	for n := range a.env {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		fmt.Fprintf(&b, "env %s %q\n", n, a.env[n])
	}
	return seal(b.Bytes())
}

func decodeActive(data []byte) (activeInfo, error) {
	a := activeInfo{env: map[string]string{}}
	body, err := unseal(data, activeHeader)
	if err != nil {
		return a, err
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(body), "\n"), "\n") {
		key, rest, _ := strings.Cut(line, " ")
		var err error
		switch key {
		case "signature":
			a.signature = Signature(rest)
		case "date":
			var sec int64
			sec, err = strconv.ParseInt(rest, 10, 64)
			a.date = time.Unix(sec, 0)
		case "env":
			name, quoted, _ := strings.Cut(rest, " ")
			a.env[name], err = strconv.Unquote(quoted)
		default:
			err = errors.New("expected signature, date or env")
		}
		if err != nil {
			return a, fmt.Errorf("line %d: %q: %w", i+2, line, err)
		}
	}
	if a.signature == "" || a.date.IsZero() {
		return a, errors.New("signature or date is missing")
	}
	return a, nil
}

func (p Paths) readActiveInfo(am string) (activeInfo, error) {
	data, err := os.ReadFile(p.ActiveInfo(am))
	if errors.Is(err, fs.ErrNotExist) {
		return activeInfo{}, fmt.Errorf("%s: %w", am, ErrNotConfigured)
	}
	if err != nil {
		return activeInfo{}, err
	}
	a, err := decodeActive(data)
	if err != nil {
		return a, fmt.Errorf("%s: %w", p.ActiveInfo(am), err)
	}
	return a, nil
}

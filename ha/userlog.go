package ha

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// The output of scripts, and of what they start, goes to userlog.ulog (§13.7.3). They
// write to it themselves, appending, so it can be emptied under them.

// output opens the log for a script and notes what is about to run.
func (r *runner) output(s script) (*os.File, error) {
	if r.userlog == "" {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	f, err := os.OpenFile(r.userlog, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil { // what a script says is no reason not to run it
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	fmt.Fprintf(f, "---- %s %s %s\n", time.Now().Format("2006-01-02 15:04:05.000000"), s.name, strings.Join(s.args, " ")) // the disk may be full: likewise
	return f, nil
}

const (
	userlogEvery = 10 * time.Second // between looks at its size
	userlogKept  = 1 << 20          // bytes of its end that stay when it is emptied
)

// limitUserlog empties a log that has reached its limit in bytes. Its last lines are
// kept as userlog.ulog.old; what is written between the copy and the truncation is
// lost. A limit of 0 is none.
func limitUserlog(path string, limit int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || limit <= 0 {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() < limit {
		return err
	}
	old, err := os.OpenFile(path+".old.new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	from := max(0, st.Size()-userlogKept)
	_, err = io.Copy(old, io.NewSectionReader(f, from, st.Size()-from))
	if err = errors.Join(err, old.Close()); err == nil {
		err = os.Rename(path+".old.new", path+".old")
	}
	if err != nil {
		os.Remove(path + ".old.new")
	}
	return errors.Join(err, f.Truncate(0)) // the limit holds even if nothing can be kept
}

// limitUserlog keeps the module's log within its limit.
func (m *module) limitUserlog(mc *moduleConf) {
	if !mc.logging {
		return
	}
	if err := limitUserlog(m.paths.UserLog(m.name), mc.logSize); err != nil {
		m.log.Write(LevelInfo, "userplug", fmt.Sprintf("The log of scripts cannot be limited: %v", err))
	}
}

// limitUserlogNow looks at the size of the log now and then, beside the loop.
func (m *module) limitUserlogNow(now time.Time) {
	if now.Sub(m.userlogAt).Abs() < userlogEvery || m.state.Role == RoleStop {
		return
	}
	m.userlogAt = now
	mc := m.mc
	m.tasks.Go(func() { m.limitUserlog(mc) })
}

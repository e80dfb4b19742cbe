package main

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "modernc.org/sqlite"
)

// sqliteRows inserts rows, one a transaction, with a rollback journal and
// synchronous=full: the careful defaults of SQLite.
func sqliteRows(s site) (_ []float64, err error) {
	file := filepath.Join(s.Dir, "rows.db")
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(delete)&_pragma=synchronous(full)")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close(), os.Remove(file)) }()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("create table t(a integer, b text)"); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	n, began := 0, time.Now()
	for ; time.Since(began) < s.secs(); n++ {
		if _, err := db.Exec("insert into t values(?, 'x')", n); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return []float64{rate(n, began)}, nil
}

// postgres is one server of PostgreSQL, with its data on a target. It runs from
// the first round to the last, and is idle while others are measured: nothing
// that a server does by itself is left on.
type postgres struct {
	data    string
	sockets string // directory of the socket, on no disk
	port    string
	user    *syscall.Credential
}

const (
	postgresSockets = "/run/postgresql" // the lab makes it in each host
	postgresPort    = 55432             // of target 0; it is only in the name of the socket
	postgresScale   = "10"
	postgresClients = "4"
)

func newPostgres(s site) (*postgres, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &postgres{data: filepath.Join(s.Dir, "data"), sockets: postgresSockets, port: strconv.Itoa(postgresPort + s.Number),
		user: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

func (p *postgres) run(name string, args ...string) ([]byte, error) {
	path, err := program(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = p.sockets
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C", "HOME=" + p.sockets, "PGHOST=" + p.sockets, "PGPORT=" + p.port}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	return command(cmd)
}

func startPostgres(s site) error {
	p, err := newPostgres(s)
	if err != nil {
		return err
	}
	if err := os.Mkdir(p.data, 0o700); err != nil {
		return err
	}
	if err := os.Chown(p.data, int(p.user.Uid), int(p.user.Gid)); err != nil {
		return err
	}
	if _, err := p.run("initdb", "-D", p.data, "-A", "trust", "-N"); err != nil {
		return err
	}
	options := strings.Join([]string{"-k", p.sockets, "-p", p.port, "-c", "listen_addresses=", "-c", "autovacuum=off",
		"-c", "checkpoint_timeout=1h", "-c", "max_wal_size=4GB", "-c", "bgwriter_lru_maxpages=0"}, " ")
	log := filepath.Join(p.sockets, p.port+".log")
	if _, err := p.run("pg_ctl", "-D", p.data, "-w", "-t", "60", "-l", log, "-o", options, "start"); err != nil {
		said, _ := os.ReadFile(log)
		return fmt.Errorf("%w\n%s", err, said)
	}
	_, err = p.run("pgbench", "-i", "-q", "-s", postgresScale, "postgres")
	return err
}

var tps = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// pgbench runs its TPC-B like transactions with four clients.
func pgbench(s site) ([]float64, error) {
	p, err := newPostgres(s)
	if err != nil {
		return nil, err
	}
	out, err := p.run("pgbench", "-n", "-c", postgresClients, "-j", "2", "-T", strconv.Itoa(s.Secs), "postgres")
	if err != nil {
		return nil, err
	}
	m := tps.FindSubmatch(out)
	if m == nil {
		return nil, fmt.Errorf("output of pgbench: expected a line \"tps = …\": %s", out)
	}
	rate, err := strconv.ParseFloat(string(m[1]), 64)
	return []float64{rate}, err
}

func stopPostgres(s site) error {
	p, err := newPostgres(s)
	if err != nil {
		return err
	}
	_, err = p.run("pg_ctl", "-D", p.data, "-m", "immediate", "-w", "stop")
	return err
}

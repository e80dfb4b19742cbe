package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
)

// maxBody bounds a request. The largest is a cluster.xml, coded in base64.
const maxBody = 4 << 20

// Options says what a Server stands on.
type Options struct {
	Supervisor Supervisor
	Log        func(module string) (Log, error)
	Paths      conf.Paths
	Node       func() Node // who answers, now
	// Nodes are those of the cluster, as this one sees them; nil: nobody looks.
	Nodes  func() []ha.NodeState
	Errors *log.Logger      // of connections; nil: none
	Now    func() time.Time // nil: time.Now
}

// Server answers the requests of clients.
type Server struct {
	o      Options
	mux    *http.ServeMux
	config sync.Mutex // one change of configuration at a time
}

// NewServer makes the service. It does nothing until Serve, or until it is used
// as an http.Handler.
func NewServer(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Errors == nil {
		o.Errors = log.New(io.Discard, "", 0)
	}
	s := &Server{o: o, mux: http.NewServeMux()}
	s.handle("GET /v1/node", s.node)
	s.handle("GET /v1/modules", s.modules)
	s.handle("GET /v1/modules/{am}", s.module)
	s.handle("GET /v1/modules/{am}/watch", s.watch)
	s.handle("POST /v1/modules/{am}/command", s.command)
	s.handle("GET /v1/modules/{am}/rules", s.rules)
	s.handle("GET /v1/modules/{am}/history", s.history)
	s.handle("GET /v1/modules/{am}/errd", s.errd)
	s.handle("GET /v1/modules/{am}/log", s.readLog)
	s.handle("POST /v1/modules/{am}/log", s.writeLog)
	s.handle("GET /v1/modules/{am}/transitions", s.transitions)
	s.handle("POST /v1/modules/{am}/config", s.configure)
	s.handle("POST /v1/modules/{am}/deconfig", s.deconfigure)
	s.handle("POST /v1/modules/{am}/uninstall", s.uninstall)
	s.farmRoutes()
	s.handle("GET /v1/nodes", func(w http.ResponseWriter, _ *http.Request) error {
		all := []ha.NodeState{}
		if s.o.Nodes != nil {
			all = append(all, s.o.Nodes()...)
		}
		answer(w, http.StatusOK, all)
		return nil
	})
	s.handle("POST /v1/cluster", s.cluster)
	s.handle("POST /v1/cluster/drop", s.dropCluster)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusNotFound, failure{Error: fmt.Sprintf("%s %s is no request of this service", r.Method, r.URL.Path)})
	})
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Listen opens the daemon's socket. The caller holds the daemon's lock.
func (s *Server) Listen() (net.Listener, error) { return listenUnix(s.o.Paths.DaemonSocket()) }

// Serve answers until ctx ends, then closes l, ends what goes on for a
// time and returns when every handler has.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          s.o.Errors,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		// Handlers see that ctx has ended; who connected and says nothing is not
		// waited for long.
		patience, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if h.Shutdown(patience) != nil {
			h.Close()
		}
	})
	err := h.Serve(l)
	if stop() {
		h.Close()
		return err // not because of ctx
	}
	<-closed
	return nil
}

// handle routes to a function that answers itself or returns an error.
func (s *Server) handle(pattern string, f func(http.ResponseWriter, *http.Request) error) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if am := r.PathValue("am"); am != "" {
			if err := conf.CheckName(am); err != nil { // names become paths
				fail(w, badRequest{err})
				return
			}
		}
		if err := f(w, r); err != nil {
			fail(w, err)
		}
	})
}

// badRequest marks an error that is the client's.
type badRequest struct{ error }

func (b badRequest) Unwrap() error { return b.error }

func fail(w http.ResponseWriter, err error) {
	f := failure{Error: err.Error()}
	status := http.StatusInternalServerError
	var bad badRequest
	switch {
	case errors.As(err, &f.Problems), errors.As(err, &bad):
		status = http.StatusBadRequest
	case errors.Is(err, ha.ErrNoModule), errors.Is(err, conf.ErrNotInstalled), errors.Is(err, conf.ErrNotConfigured), errors.Is(err, conf.ErrNoCluster):
		status = http.StatusNotFound
	case errors.Is(err, ha.ErrRefused), errors.Is(err, conf.ErrClusterLocked):
		status = http.StatusConflict
	}
	answer(w, status, f)
}

// answer sends v as JSON. That the client is gone is nobody's concern.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// read decodes the body of a request. Fields that are not known are an error: a
// newer client asks for what this daemon does not do.
func read(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badRequest{fmt.Errorf("body of %s: %w", r.URL.Path, err)}
	}
	return nil
}

func (s *Server) node(w http.ResponseWriter, _ *http.Request) error {
	answer(w, http.StatusOK, s.o.Node())
	return nil
}

func (s *Server) modules(w http.ResponseWriter, _ *http.Request) error {
	installed, err := s.o.Paths.Installed()
	if err != nil {
		return err
	}
	ms := make([]Module, len(installed))
	for i, m := range installed {
		if ms[i], err = s.moduleOf(m); err != nil {
			return err
		}
	}
	answer(w, http.StatusOK, ms)
	return nil
}

func (s *Server) module(w http.ResponseWriter, r *http.Request) error {
	am := r.PathValue("am")
	id, err := s.o.Paths.ModuleID(am)
	if err != nil {
		return err
	}
	m, err := s.moduleOf(conf.Installed{Name: am, ID: id})
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, m)
	return nil
}

func (s *Server) moduleOf(i conf.Installed) (Module, error) {
	m := Module{Name: i.Name, ID: i.ID}
	st, err := s.o.Supervisor.State(i.Name)
	switch {
	case err == nil:
		m.Configured, m.State = true, st
	case !errors.Is(err, ha.ErrNoModule):
		return m, err
	case s.o.Paths.Configured(i.Name):
		m.Problem = err.Error()
	}
	return m, nil
}

// known tells why the supervisor does not have module am.
func (s *Server) known(am string) error {
	if _, err := s.o.Paths.ModuleID(am); err != nil {
		return err
	}
	_, err := s.o.Supervisor.State(am)
	if errors.Is(err, ha.ErrNoModule) && !s.o.Paths.Configured(am) {
		return fmt.Errorf("%s: %w: run \"config -m %s\" first", am, conf.ErrNotConfigured, am)
	}
	return err
}

func (s *Server) command(w http.ResponseWriter, r *http.Request) error {
	var c Command
	if err := read(r, &c); err != nil {
		return err
	}
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	if err := s.o.Supervisor.Do(r.Context(), am, ha.Command{Name: c.Name, Args: c.Args, By: c.By, Identity: c.Identity}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) errd(w http.ResponseWriter, r *http.Request) error {
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	d, err := s.o.Supervisor.Errd(am)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, d)
	return nil
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) error {
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	// Ends the watch when the client does not read any more.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := newStream(w)
	for st := range s.o.Supervisor.Watch(ctx, am) {
		if err := out.send(st); err != nil {
			break
		}
	}
	return nil
}

func (s *Server) readLog(w http.ResponseWriter, r *http.Request) error {
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	l, err := s.o.Log(am)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	n, err := strconv.Atoi(q.Get("n"))
	if err != nil || n < 0 {
		return badRequest{fmt.Errorf("n=%q: expected the number of lines", q.Get("n"))}
	}
	var level ha.Level
	if err := level.UnmarshalText([]byte(q.Get("level"))); err != nil {
		return badRequest{fmt.Errorf("level=%q: expected E, I or D", q.Get("level"))}
	}
	// One line is always read: following goes on after it.
	lines, err := l.Tail(r.Context(), max(n, 1), level)
	if err != nil {
		return err
	}
	var last int64
	if len(lines) > 0 {
		last = lines[len(lines)-1].ID
	}
	out := newStream(w)
	for _, line := range lines[len(lines)-min(n, len(lines)):] {
		if err := out.put(line); err != nil {
			return nil
		}
	}
	if err := out.flush(); err != nil || q.Get("follow") == "" {
		return nil
	}
	err = l.Follow(r.Context(), last, level, func(line ha.Line) error { return out.send(line) })
	if err != nil && r.Context().Err() == nil {
		s.o.Errors.Printf("follow the log of %s: %v", am, err)
	}
	return nil
}

func (s *Server) writeLog(_ http.ResponseWriter, r *http.Request) error {
	var m Message
	if err := read(r, &m); err != nil {
		return err
	}
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	l, err := s.o.Log(am)
	if err != nil {
		return err
	}
	l.Write(m.Level, m.Source, m.Text)
	return nil
}

func (s *Server) transitions(w http.ResponseWriter, r *http.Request) error {
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	l, err := s.o.Log(am)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 {
		return badRequest{fmt.Errorf("n=%q: expected the number of transitions", r.URL.Query().Get("n"))}
	}
	all, err := l.Transitions(r.Context(), n)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, all)
	return nil
}

// A stream sends JSON values, one a line.
type stream struct {
	enc   *json.Encoder
	flush func() error
}

func newStream(w http.ResponseWriter) stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return stream{json.NewEncoder(w), http.NewResponseController(w).Flush}
}

func (s stream) put(v any) error { return s.enc.Encode(v) }

func (s stream) send(v any) error {
	if err := s.put(v); err != nil {
		return err
	}
	return s.flush()
}

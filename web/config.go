package web

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
)

// configure makes SAFE/modules/AM the active configuration (guide §9.6): at any
// time in STOP; in ALONE and WAIT (red) if only dynamic parameters change.
func (s *Server) configure(w http.ResponseWriter, r *http.Request) error {
	s.config.Lock()
	defer s.config.Unlock()
	am := r.PathValue("am")
	c, err := s.o.Paths.LoadCluster()
	if err != nil {
		return err
	}
	stopped, err := s.stopped(am)
	if err != nil {
		return err
	}
	var allow func(*conf.Module) error
	if !stopped {
		old, err := s.o.Paths.Active(am, c)
		if err != nil {
			return err
		}
		allow = func(fresh *conf.Module) error {
			if changed := conf.StaticChanges(old.Module, fresh); len(changed) > 0 {
				return fmt.Errorf("%w: %s can only change while the module is stopped", ha.ErrRefused, strings.Join(changed, ", "))
			}
			return nil
		}
	}
	a, err := s.o.Paths.Apply(am, c, s.o.Now(), allow)
	if err != nil {
		return err
	}
	if err := s.o.Supervisor.Configure(r.Context(), am); err != nil {
		return fmt.Errorf("the configuration is in force from the next start on: %w", err)
	}
	answer(w, http.StatusOK, Configured{a.Signature, a.Date, problemTexts(a.Module.Warnings)})
	return nil
}

// stopped says whether all of a module's configuration may change now; an error
// if nothing may.
func (s *Server) stopped(am string) (bool, error) {
	if _, err := s.o.Paths.ModuleID(am); err != nil {
		return false, err
	}
	st, err := s.o.Supervisor.State(am)
	switch {
	case errors.Is(err, ha.ErrNoModule):
		return true, nil
	case err != nil:
		return false, err
	case st.Role == ha.RoleStop && st.Colour == ha.Red:
		return true, nil
	case st.Role == ha.RoleAlone && st.Colour == ha.Green, st.Role == ha.RoleWait && st.Colour == ha.Red:
		return false, nil
	}
	return false, fmt.Errorf("%w: module %s is %v (%v): it can be configured in STOP, ALONE and WAIT (red)", ha.ErrRefused, am, st.Role, st.Colour)
}

// deconfigure and uninstall need a stopped module.

func (s *Server) deconfigure(w http.ResponseWriter, r *http.Request) error {
	return s.remove(w, r, s.o.Paths.Deconfigure)
}

func (s *Server) uninstall(w http.ResponseWriter, r *http.Request) error {
	return s.remove(w, r, s.o.Paths.Uninstall)
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request, how func(am string) error) error {
	s.config.Lock()
	defer s.config.Unlock()
	am := r.PathValue("am")
	if stopped, err := s.stopped(am); err != nil {
		return err
	} else if !stopped {
		return fmt.Errorf("%w: module %s is not stopped", ha.ErrRefused, am)
	}
	// The supervisor looks whether the configuration is still there, so it must
	// go first: between the two a start fails, and finds nothing half removed.
	if err := s.o.Paths.Deconfigure(am); err != nil {
		return err
	}
	if err := s.o.Supervisor.Configure(r.Context(), am); err != nil && !errors.Is(err, ha.ErrNoModule) {
		return err
	}
	if err := how(am); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) cluster(w http.ResponseWriter, r *http.Request) error {
	var c ClusterConfig
	if err := read(r, &c); err != nil {
		return err
	}
	s.config.Lock()
	defer s.config.Unlock()
	before, _ := os.ReadFile(s.o.Paths.ClusterFile()) // none: another one in any case
	cluster, err := s.o.Paths.ApplyCluster(c.File, c.Data, c.Lock)
	if err != nil {
		return err
	}
	info, err := s.o.Paths.ClusterInfo()
	if err != nil {
		return err
	}
	if err := s.o.Supervisor.Reload(r.Context()); err != nil {
		return err
	}
	warnings := s.misfits(cluster)
	if after, err := os.ReadFile(s.o.Paths.ClusterFile()); err != nil || !bytes.Equal(before, after) {
		warnings = append(warnings, s.later(cluster)...)
	}
	answer(w, http.StatusOK, Configured{info.Signature, info.Date, warnings})
	return nil
}

// later names the modules that fit the cluster and may not change now.
func (s *Server) later(c *conf.Cluster) []string {
	installed, err := s.o.Paths.Installed()
	if err != nil {
		return nil // misfits says so
	}
	var out []string
	for _, m := range installed {
		st, err := s.o.Supervisor.State(m.Name)
		if err != nil || st.Role == ha.RoleStop || st.Role == ha.RoleAlone || st.Role == ha.RoleWait {
			continue
		}
		if _, err := s.o.Paths.Active(m.Name, c); err == nil {
			out = append(out, fmt.Sprintf("module %s is %v: it takes the new configuration of the cluster up when it is STOP, ALONE or WAIT", m.Name, st.Role))
		}
	}
	return out
}

// misfits names the modules whose configuration does not fit the cluster any
// more.
func (s *Server) misfits(c *conf.Cluster) []string {
	installed, err := s.o.Paths.Installed()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, m := range installed {
		if _, err := s.o.Paths.Active(m.Name, c); err != nil && !errors.Is(err, conf.ErrNotConfigured) {
			out = append(out, fmt.Sprintf("module %s does not fit the cluster any more: %v", m.Name, err))
		}
	}
	return out
}

func (s *Server) dropCluster(w http.ResponseWriter, r *http.Request) error {
	s.config.Lock()
	defer s.config.Unlock()
	installed, err := s.o.Paths.Installed()
	if err != nil {
		return err
	}
	for _, m := range installed {
		if stopped, err := s.stopped(m.Name); err != nil {
			return err
		} else if !stopped {
			return fmt.Errorf("%w: module %s is not stopped", ha.ErrRefused, m.Name)
		}
	}
	if err := s.o.Paths.DropCluster(); err != nil {
		return err
	}
	if err := s.o.Supervisor.Reload(r.Context()); err != nil && !errors.Is(err, conf.ErrNoCluster) {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func problemTexts(ps conf.Problems) []string {
	var s []string
	for _, p := range ps {
		s = append(s, p.String())
	}
	return s
}

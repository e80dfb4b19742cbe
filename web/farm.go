package web

import (
	"context"
	"net/http"

	"github.com/skfs/skfs/ha"
)

// FarmSupervisor is what the service needs of the control side for farms.
type FarmSupervisor interface {
	Farm(ctx context.Context, module string) (ha.FarmView, error)
	FarmWho(ctx context.Context, module string, q ha.FarmQuery) (ha.FarmAnswer, error)
	FarmDrain(ctx context.Context, module, node string, on bool) error
}

var _ FarmSupervisor = (*ha.Supervisor)(nil)

// Drain orders that a member of a farm gets no new connections (On), or gets some
// again.
type Drain struct {
	Node string
	On   bool
}

// farmRoutes are those about farms.
func (s *Server) farmRoutes() {
	s.handle("GET /v1/modules/{am}/farm", func(w http.ResponseWriter, r *http.Request) error {
		return s.onFarm(w, r, nil, func(f FarmSupervisor, am string) (any, error) { return f.Farm(r.Context(), am) })
	})
	s.handle("POST /v1/modules/{am}/farm/who", func(w http.ResponseWriter, r *http.Request) error {
		var q ha.FarmQuery
		return s.onFarm(w, r, &q, func(f FarmSupervisor, am string) (any, error) { return f.FarmWho(r.Context(), am, q) })
	})
	s.handle("POST /v1/modules/{am}/farm/drain", func(w http.ResponseWriter, r *http.Request) error {
		var d Drain
		return s.onFarm(w, r, &d, func(f FarmSupervisor, am string) (any, error) {
			return struct{}{}, f.FarmDrain(r.Context(), am, d.Node, d.On)
		})
	})
}

func (s *Server) onFarm(w http.ResponseWriter, r *http.Request, body any, do func(f FarmSupervisor, am string) (any, error)) error {
	if body != nil {
		if err := read(r, body); err != nil {
			return err
		}
	}
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	v, err := do(s.o.Supervisor, am)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, v)
	return nil
}

// Farm says what the node knows of the farm of a module.
func (c *Client) Farm(ctx context.Context, am string) (ha.FarmView, error) {
	var v ha.FarmView
	return v, c.call(ctx, "GET", modulePath(am, "farm"), nil, &v)
}

// FarmWho says which member serves a client, and why.
func (c *Client) FarmWho(ctx context.Context, am string, q ha.FarmQuery) (ha.FarmAnswer, error) {
	var a ha.FarmAnswer
	return a, c.call(ctx, "POST", modulePath(am, "farm/who"), q, &a)
}

// FarmDrain orders that a member gets no new connections, or gets some again.
func (c *Client) FarmDrain(ctx context.Context, am string, d Drain) error {
	return c.call(ctx, "POST", modulePath(am, "farm/drain"), d, &struct{}{})
}

package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// Port is where Serve listens.
const Port = "7070"

// Serve is the application: it opens the store of a kind in dir and answers until
// it gets SIGTERM. Its arguments are the kind and the directory.
func Serve(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("ledger: %d arguments, expected kind and directory", len(args))
	}
	store, err := Open(args[0], args[1])
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":"+Port)
	if err != nil {
		return errors.Join(fmt.Errorf("ledger: %w", err), store.Close())
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	s := &server{store: store, conns: map[net.Conn]bool{}}
	go func() {
		<-stop
		l.Close()
		s.hangUp()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			break // told to stop
		}
		if s.admit(c) {
			s.all.Go(func() { s.answer(c) })
		}
	}
	s.all.Wait()
	return store.Close()
}

type server struct {
	store Store
	all   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
}

// admit takes a connection unless the server is closing.
func (s *server) admit(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	s.conns[c] = true
	return true
}

func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
}

// answer stores what a connection asks for, one entry at a time.
func (s *server) answer(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		var id uint64
		if _, err := fmt.Sscan(lines.Text(), &id); err != nil {
			fmt.Fprintf(c, "error %v\n", err)
			return
		}
		if err := s.store.Put(id); err != nil {
			fmt.Fprintf(os.Stderr, "ledger: put %d: %v\n", id, err)
			fmt.Fprintf(c, "error %v\n", err)
			return
		}
		fmt.Fprintf(c, "%d\n", id)
	}
}

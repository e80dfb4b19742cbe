package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// ErrClusterLocked says that the cluster configuration may not be changed.
var ErrClusterLocked = errors.New("the cluster configuration is locked: unlock it with \"cluster config … unlock\"")

// ErrNoCluster says that this node has no cluster configuration.
var ErrNoCluster = errors.New("the cluster is not configured: apply a cluster.xml with \"cluster config FILE\"")

// ClusterInfo is what "cluster confinfo" shows of a node.
type ClusterInfo struct {
	Signature Signature
	Date      time.Time // of the last configuration
	Locked    bool
}

// LoadCluster parses the active cluster.xml, or returns ErrNoCluster.
func (p Paths) LoadCluster() (*Cluster, error) {
	c, err := ReadCluster(p.ClusterFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoCluster
	}
	return c, err
}

// ClusterInfo describes the active cluster configuration.
func (p Paths) ClusterInfo() (ClusterInfo, error) {
	var i ClusterInfo
	st, err := os.Stat(p.ClusterFile())
	if errors.Is(err, fs.ErrNotExist) {
		return i, ErrNoCluster
	}
	if err != nil {
		return i, err
	}
	i.Date = st.ModTime()
	if _, err := os.Lstat(p.ClusterLock()); err == nil {
		i.Locked = true
	}
	i.Signature, err = FileSignature(p.ClusterFile())
	return i, err
}

// Locking says what to do with the lock of the cluster configuration.
type Locking uint8

// The values of Locking.
const (
	KeepLock Locking = iota // refuse if it is locked
	Lock                    // refuse later changes
	Unlock                  // allow this and later ones
)

// ApplyCluster checks the cluster.xml in data, which came from file, and makes
// it the active one. Empty data keeps the configuration and changes the lock
// only.
func (p Paths) ApplyCluster(file string, data []byte, l Locking) (*Cluster, error) {
	unlock, err := p.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := os.MkdirAll(p.Cluster(), 0o755); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(p.ClusterLock()); err == nil && l != Unlock {
		return nil, ErrClusterLocked
	}
	var c *Cluster
	if len(data) == 0 {
		c, err = p.LoadCluster()
	} else {
		c, err = ParseCluster(file, bytes.NewReader(data))
	}
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		if err := writeFile(p.ClusterFile(), data, 0o644); err != nil {
			return nil, fmt.Errorf("apply %s: %w", file, err)
		}
	}
	switch l {
	case Lock:
		err = writeFile(p.ClusterLock(), nil, 0o600)
	case Unlock:
		if err = os.Remove(p.ClusterLock()); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return c, err
}

// DropCluster removes the cluster configuration.
func (p Paths) DropCluster() error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(p.ClusterLock()); err == nil {
		return ErrClusterLocked
	}
	if err := os.Remove(p.ClusterFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

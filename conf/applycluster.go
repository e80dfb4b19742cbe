package conf

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
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
	Signature Signature // of cluster.xml and key
	Key       string    // ClusterKey.ID
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
	xml, err := os.ReadFile(p.ClusterFile())
	if err != nil {
		return i, err
	}
	key, err := p.LoadClusterKey()
	i.Key = key.ID()
	sum := sha256.Sum256(append(xml, i.Key...))
	i.Signature = Signature(hex.EncodeToString(sum[:]))
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

// ApplyCluster checks the configuration in data, which came from file, and makes it
// the active one (guide §9.3): a cluster.xml with a new key, or a cluster.zip with
// the key in it. Empty data keeps cluster.xml; with KeepLock it gets a new key, else
// only the lock changes. ClusterZip is then what the other nodes have to apply.
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
	if len(data) == 0 && l != KeepLock {
		c, err := p.LoadCluster()
		return c, errors.Join(err, p.setClusterLock(l))
	}
	z := clusterZip{xml: data, key: NewClusterKey()}
	switch {
	case bytes.HasPrefix(data, []byte(zipMagic)):
		z, err = decodeClusterZip(file, data)
	case len(data) == 0:
		if z.xml, err = os.ReadFile(p.ClusterFile()); errors.Is(err, fs.ErrNotExist) {
			err = ErrNoCluster
		}
	}
	if err != nil {
		return nil, err
	}
	c, err := ParseCluster(file, bytes.NewReader(z.xml))
	if err != nil {
		return nil, err
	}
	err = p.writeClusterZip(z)
	if err == nil {
		err = p.writeClusterKey(z.key)
	}
	if err == nil {
		err = writeFile(p.ClusterFile(), z.xml, 0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("apply %s: %w", file, err)
	}
	return c, p.setClusterLock(l)
}

// setClusterLock does what l says.
func (p Paths) setClusterLock(l Locking) error {
	switch l {
	case Lock:
		return writeFile(p.ClusterLock(), nil, 0o600)
	case Unlock:
		if err := os.Remove(p.ClusterLock()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// DropCluster removes the cluster configuration and its key.
func (p Paths) DropCluster() error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(p.ClusterLock()); err == nil {
		return ErrClusterLocked
	}
	for _, file := range []string{p.ClusterFile(), p.ClusterKeyFile(), p.ClusterZip()} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

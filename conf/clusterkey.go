package conf

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// ClusterKey signs what the nodes of a cluster send each other (guide §9.3, §12.2.2).
// The zero ClusterKey is that of a cluster without one.
type ClusterKey [32]byte

// NewClusterKey makes a random key.
func NewClusterKey() ClusterKey {
	var k ClusterKey
	rand.Read(k[:]) // never fails, see crypto/rand
	return k
}

// ID tells keys apart and gives nothing of them away; "" for no key.
func (k ClusterKey) ID() string {
	if k == (ClusterKey{}) {
		return ""
	}
	sum := sha256.Sum256(append([]byte("skfs cluster key id "), k[:]...))
	return hex.EncodeToString(sum[:4])
}

// The file cluster.key, mode 0600, is text:
//
//	line 1  skfs cluster key 1        name and version of the format
//	line 2  key <64 hex digits>
//	line 3  crc32c <8 hex digits> of all bytes before this line
const clusterKeyHeader = "skfs cluster key 1\n"

func encodeClusterKey(k ClusterKey) []byte {
	return seal(fmt.Appendf(nil, "%skey %x\n", clusterKeyHeader, k[:]))
}

func decodeClusterKey(data []byte) (ClusterKey, error) {
	var k ClusterKey
	body, err := unseal(data, clusterKeyHeader)
	if err != nil {
		return k, err
	}
	text, ok := strings.CutPrefix(string(body), "key ")
	text, end := strings.CutSuffix(text, "\n")
	raw, err := hex.DecodeString(text)
	if !ok || !end || err != nil || len(raw) != len(k) || text != strings.ToLower(text) {
		return k, fmt.Errorf("line 2: expected \"key \" and %d hex digits", 2*len(k))
	}
	if copy(k[:], raw); k == (ClusterKey{}) {
		return k, errors.New("line 2: a key of zeros is none")
	}
	return k, nil
}

// LoadClusterKey returns the key in force, the zero one if there is none.
func (p Paths) LoadClusterKey() (ClusterKey, error) {
	data, err := os.ReadFile(p.ClusterKeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return ClusterKey{}, nil
	}
	if err != nil {
		return ClusterKey{}, err
	}
	k, err := decodeClusterKey(data)
	if err != nil {
		return k, fmt.Errorf("%s: %w", p.ClusterKeyFile(), err)
	}
	return k, nil
}

// writeClusterKey puts a key in force, or takes it away.
func (p Paths) writeClusterKey(k ClusterKey) error {
	if k != (ClusterKey{}) {
		return writeFile(p.ClusterKeyFile(), encodeClusterKey(k), 0o600)
	}
	if err := os.Remove(p.ClusterKeyFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// clusterZip is what goes to the other nodes: cluster.xml, and cluster.key if there
// is a key.
type clusterZip struct {
	xml []byte
	key ClusterKey
}

const (
	zipMagic   = "PK\x03\x04"
	zipMaxFile = 1 << 20
)

func (z clusterZip) encode() ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	files := map[string][]byte{"cluster.xml": z.xml}
	if z.key != (ClusterKey{}) {
		files["cluster.key"] = encodeClusterKey(z.key)
	}
	for _, name := range []string{"cluster.xml", "cluster.key"} {
		if data := files[name]; data != nil {
			f, err := w.Create(name)
			if err == nil {
				_, err = f.Write(data)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func decodeClusterZip(file string, data []byte) (clusterZip, error) {
	var z clusterZip
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return z, fmt.Errorf("%s: %w", file, err)
	}
	for _, f := range r.File {
		if f.Name != "cluster.xml" && f.Name != "cluster.key" {
			return z, fmt.Errorf("%s holds %q: expected cluster.xml and cluster.key only", file, f.Name)
		}
		in, err := f.Open()
		if err != nil {
			return z, fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
		content, err := io.ReadAll(io.LimitReader(in, zipMaxFile+1))
		if err = errors.Join(err, in.Close()); err == nil && len(content) > zipMaxFile {
			err = fmt.Errorf("longer than %d bytes", zipMaxFile)
		}
		if err == nil && f.Name == "cluster.key" {
			z.key, err = decodeClusterKey(content)
		} else {
			z.xml = content
		}
		if err != nil {
			return z, fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
	}
	if len(z.xml) == 0 {
		return z, fmt.Errorf("%s holds no cluster.xml", file)
	}
	return z, nil
}

// writeClusterZip makes cluster.zip of a configuration.
func (p Paths) writeClusterZip(z clusterZip) error {
	data, err := z.encode()
	if err != nil {
		return err
	}
	return writeFile(p.ClusterZip(), data, 0o600)
}

// StageClusterKey makes cluster.zip, which goes to all nodes, of the cluster.xml in
// force with another key, the zero one for none. It is in force on a node once the
// node has applied that file.
func (p Paths) StageClusterKey(k ClusterKey) error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(p.ClusterLock()); err == nil {
		return ErrClusterLocked
	}
	xml, err := os.ReadFile(p.ClusterFile())
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoCluster
	}
	if err != nil {
		return err
	}
	return p.writeClusterZip(clusterZip{xml, k})
}

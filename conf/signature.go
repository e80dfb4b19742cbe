package conf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A Signature identifies the content of a configuration: nodes with equal
// signatures have equal configurations.
type Signature string

// configDirs are the parts of a module tree that make its configuration; the
// rest (web pages, notes) does not change how it runs.
var configDirs = []string{"conf", "bin"}

// treeSignature is that of the configuration in a module tree, with the time of
// the newest file. It covers names and content; Apply sees to it that scripts
// are executable.
func treeSignature(root string) (Signature, time.Time, error) {
	h := sha256.New()
	var newest time.Time
	for _, dir := range configDirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && path == filepath.Join(root, dir) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			st, err := os.Stat(path)
			if err != nil {
				return err
			}
			if !st.Mode().IsRegular() {
				return fmt.Errorf("%s is no regular file: a module holds files and directories only", path)
			}
			if st.ModTime().After(newest) {
				newest = st.ModTime()
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			// Lengths before contents: no two trees hash the same bytes.
			fmt.Fprintf(h, "%d %s %d\n", len(rel), rel, st.Size())
			n, err := io.Copy(h, f)
			if err == nil && n != st.Size() {
				err = fmt.Errorf("%s changed while it was read", path)
			}
			return err
		})
		if err != nil {
			return "", time.Time{}, err
		}
	}
	return Signature(hex.EncodeToString(h.Sum(nil))), newest, nil
}

package e2e

import (
	"os"
	"path/filepath"
	"runtime"
)

// burn is what burnHere does.
func burn(dir string) error {
	stop := make(chan error)
	for range runtime.NumCPU() {
		go func() {
			for n := uint64(1); n != 0; n = n*6364136223846793005 + 1442695040888963407 {
			}
		}()
		go func() {
			var keep [1024][]byte
			for i := 0; ; i++ {
				keep[i%len(keep)] = make([]byte, 16<<10)
			}
		}()
	}
	go func() {
		block := make([]byte, 1<<20)
		for {
			f, err := os.Create(filepath.Join(dir, "burn"))
			for i := 0; i < 32 && err == nil; i++ {
				if _, err = f.Write(block); err == nil && i%8 == 7 {
					err = f.Sync()
				}
			}
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				stop <- err
				return
			}
		}
	}()
	return <-stop
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The floor is what a FUSE daemon written with go-fuse costs at the least if it
// sees every write: go-fuse's loopback with the settings of skfs.

// floorNode keeps the page cache from one open to the next.
type floorNode struct{ fs.LoopbackNode }

var (
	_ fs.NodeOpener      = (*floorNode)(nil)
	_ fs.NodeCreater     = (*floorNode)(nil)
	_ fs.NodeWrapChilder = (*floorNode)(nil)
)

// WrapChild implements fs.NodeWrapChilder: what is below a floorNode is one, too.
func (n *floorNode) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &floorNode{fs.LoopbackNode{RootData: n.RootData}}
}

// Open implements fs.NodeOpener.
func (n *floorNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, _, errno := n.LoopbackNode.Open(ctx, flags)
	return f, fuse.FOPEN_KEEP_CACHE, errno
}

// Create implements fs.NodeCreater.
func (n *floorNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, f, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, f, fuse.FOPEN_KEEP_CACHE, errno
}

func floorOptions(backing string) *fs.Options {
	long := 24 * time.Hour
	return &fs.Options{
		NullPermissions: true, AttrTimeout: &long, EntryTimeout: &long, NegativeTimeout: &long,
		MountOptions: fuse.MountOptions{
			AllowOther: true, Options: []string{"default_permissions"}, FsName: backing, Name: "floor",
			DirectMountStrict: true, DirectMountFlags: unix.MS_MGC_VAL,
			MaxWrite: 1 << 20, MaxBackground: 64, ExplicitDataCacheControl: true,
			ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2, DisabledCapabilities: fuse.CAP_PASSTHROUGH,
		},
	}
}

// floorRole mounts the first directory on the second, says so on its output, and
// unmounts at SIGTERM.
func floorRole(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("arguments %q: expected a backing directory and a mount point", args)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	var st unix.Stat_t
	if err := unix.Stat(args[0], &st); err != nil {
		return fmt.Errorf("stat %s: %w", args[0], err)
	}
	root := &fs.LoopbackRoot{Path: args[0], Dev: st.Dev}
	node := &floorNode{fs.LoopbackNode{RootData: root}}
	root.RootNode = node
	server, err := fs.Mount(args[1], node, floorOptions(args[0]))
	if err != nil {
		return fmt.Errorf("mount on %s: %w", args[1], err)
	}
	fmt.Println("mounted")
	<-stop
	err = server.Unmount()
	if err != nil {
		err = errors.Join(err, unix.Unmount(args[1], unix.MNT_DETACH))
	}
	return err
}

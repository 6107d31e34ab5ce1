package catalogue

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The requests by which filesystems tell their UUIDs, and where it is in the
// answer. That of Linux 6.9 comes first, those of single filesystems serve
// older kernels.
var uuidRequests = [...]struct {
	request uint
	at      int
	length  int // where the answer says how long the UUID is; -1: 16 bytes
}{
	{0x80111500, 1, 0},   // FS_IOC_GETFSUUID
	{0x80705864, 64, -1}, // XFS_IOC_FSGEOMETRY_V1
	{0x8400941f, 16, -1}, // BTRFS_IOC_FS_INFO
}

// identify returns what stands for the filesystem of the file at path, whose
// device number is dev, in records (docs/format/catalogue.md section 2): the
// same after a reboot wherever the filesystem has a UUID.
func identify(path string, dev uint64, bootID string) (uint64, error) {
	f, err := openOn(path, dev)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	fsid := fmt.Sprintf("%x", st.Fsid.Val)
	uuid := uuidOf(f)
	name := fmt.Sprintf("%x %x", st.Type, uuid)
	switch {
	case st.Type == unix.BTRFS_SUPER_MAGIC:
		// Inode numbers are those of a subvolume; the filesystem's id is made
		// of its UUID and the subvolume.
		name += " " + fsid
	case uuid != nil:
	case st.Type == unix.EXT4_SUPER_MAGIC:
		name += " " + fsid // made of the UUID
	default:
		// Device numbers mean something until the next boot.
		name += fmt.Sprintf(" %x %s", dev, bootID)
	}
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint64(sum[:]), nil
}

// openOn opens the directory of path or, if that lies on another device than
// dev, path itself.
func openOn(path string, dev uint64) (*os.File, error) {
	for _, p := range []string{filepath.Dir(path), path} {
		f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err == nil && st.Dev == dev {
			return f, nil
		}
		f.Close()
	}
	return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("it is on another filesystem than it was")}
}

// uuidOf returns the UUID of the filesystem of f, nil if it has none.
func uuidOf(f *os.File) []byte {
	for _, r := range uuidRequests {
		var answer [1024]byte // the longest of them
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(r.request), uintptr(unsafe.Pointer(&answer)))
		if errno != 0 {
			continue
		}
		length := 16
		if r.length >= 0 {
			length = min(length, int(answer[r.length]))
		}
		uuid := answer[r.at : r.at+length]
		if len(bytes.Trim(uuid, "\x00")) > 0 {
			return uuid
		}
	}
	return nil
}

// bootID returns what names this boot of the machine.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		// Without it nothing is known of such filesystems after this run.
		return fmt.Sprint(os.Getpid())
	}
	return string(bytes.TrimSpace(b))
}

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// The arguments of ioprio_set(2).
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13
)

// idlePriority gives every thread of the process the lowest priority for the
// processor and the disk. Linux has priorities of threads: those that are made
// later inherit them, and a thread that is made meanwhile is met in the next
// round.
func idlePriority() error {
	done := make(map[int]bool)
	for {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("idle priority: %w", err)
		}
		found := false
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil || done[id] {
				continue
			}
			found, done[id] = true, true
			if err := idleThread(id); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("idle priority: %w", err)
			}
		}
		if !found {
			return nil
		}
	}
}

func idleThread(id int) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, id, 19); err != nil {
		return os.NewSyscallError("setpriority", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(id), ioprioIdle); errno != 0 {
		return os.NewSyscallError("ioprio_set", errno)
	}
	return nil
}

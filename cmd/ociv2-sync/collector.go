package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync/atomic"
)

// softMemory is the memory above which the collector works harder, in bytes: a
// device at the end of a slow link is small, and the work is bound by the
// network or by hashing, not by the collector.
const softMemory = 64 << 20

// roomShare is which part of what is alive may be garbage above softMemory. With none the
// collector would run all the time, and an image of 16 times the size cost 50 times as much;
// with more, a pull of 200,000 files takes more than its 96 MB (scripts/bench-growth).
const roomShare = 7

// cycles is of how many collections the least is taken for what is alive: each counts what
// was made while it ran. It is also how many find hardly any garbage when suddenly more is
// alive, before they are given room.
const cycles = 3

// keepRoom lets memory grow, where nearly softMemory or more is alive, to a little above what
// is, until stop is called. It is for the commands that hold the nodes and the plan of an
// image: what they need grows with the number of its files.
func (a *app) keepRoom() (stop func()) {
	if _, set := a.env("GOMEMLIMIT"); set {
		return func() {}
	}
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	var last [cycles]int64
	n := 0
	set := func() {
		metrics.Read(samples)
		v := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
		last[n%cycles] = v(0)
		n++
		alive := slices.Min(last[:])
		beside := v(1) - v(2) - v(3) - v(4) // what is no object, and counts all the same
		debug.SetMemoryLimit(max(softMemory, alive+alive/roomShare+beside))
	}
	set()
	var stopped atomic.Bool
	var arm func()
	arm = func() {
		// What nothing points to goes with the next collection.
		runtime.AddCleanup(new([64]byte), func(struct{}) {
			if !stopped.Load() {
				set()
				arm()
			}
		}, struct{}{})
	}
	arm()
	return func() { stopped.Store(true) }
}

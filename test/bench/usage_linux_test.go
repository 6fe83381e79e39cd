package bench

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peakMemory returns how far the resident memory of this process rises above what it is now, in bytes, while
// fn runs.
func peakMemory(b testing.TB, fn func()) int64 {
	b.Helper()
	debug.FreeOSMemory()
	// 5 resets the mark that VmHWM tells (Linux 4.0).
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Fatalf("reset the peak of the resident memory: %v", err)
	}
	before := residentPeak(b)
	fn()
	return residentPeak(b) - before
}

func residentPeak(b testing.TB) int64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	var kilobytes int64
	for line := range strings.Lines(string(status)) {
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); n == 1 {
			return kilobytes << 10
		}
	}
	b.Fatal("/proc/self/status has no VmHWM")
	return 0
}

// childrenPeak returns the most memory that one of the processes started so far ever had resident, in bytes.
func childrenPeak(b testing.TB) int64 {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &usage); err != nil {
		b.Fatalf("getrusage: %v", err)
	}
	return usage.Maxrss << 10
}

// cpuTime returns the processor time that this process and the ended ones that it started have used, in the
// kernel too. It says more than the clock where others use the machine.
func cpuTime(b testing.TB) time.Duration {
	b.Helper()
	var all time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var usage unix.Rusage
		if err := unix.Getrusage(who, &usage); err != nil {
			b.Fatalf("getrusage: %v", err)
		}
		all += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return all
}

// load tells how busy the machine is.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

// watchPeak looks at a process that was started, and is not waited for yet, until stop is called, which returns
// the most memory that it had resident, in bytes. What the kernel tells of an ended process counts the memory
// of the one that started it as well.
func watchPeak(pid int) (stop func() int64) {
	var peak int64
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		poll := time.NewTicker(10 * time.Millisecond)
		defer poll.Stop()
		for {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			for line := range strings.Lines(string(status)) {
				var kilobytes int64
				if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); n == 1 {
					peak = max(peak, kilobytes<<10)
				}
			}
			select {
			case <-poll.C:
			case <-end:
				return
			}
		}
	}()
	return func() int64 {
		close(end)
		<-done
		return peak
	}
}

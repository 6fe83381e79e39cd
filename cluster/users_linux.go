package cluster

import (
	"bufio"
	"fmt"
	"os"

	"svcproxy/sandbox"
)

// podRange is who pods' users are on a machine whose root may choose: numbers that no distribution gives to people or
// services, the last 65,536 below 2³¹-1, above which some programs take a number for negative.
var podRange = sandbox.UserRange{Base: 2147418112, Size: 65536}

// PodUsers are the users that pods have: podRange, or their root alone where this program's own user namespace does
// not hold that.
func PodUsers() (sandbox.UserRange, error) {
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		holds, err := holdsRange(file, podRange)
		if err != nil {
			return sandbox.UserRange{}, err
		}
		if !holds {
			return sandbox.UserRange{}, nil
		}
	}
	return podRange, nil
}

// holdsRange tells whether one line of a map of users has all of the range.
func holdsRange(file string, r sandbox.UserRange) (bool, error) {
	lines, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer lines.Close()
	scanner := bufio.NewScanner(lines)
	for scanner.Scan() {
		var first, outside, size int
		if _, err := fmt.Sscan(scanner.Text(), &first, &outside, &size); err != nil {
			return false, fmt.Errorf("%s: %q: %w", file, scanner.Text(), err)
		}
		if first <= r.Base && r.Base+r.Size <= first+size {
			return true, nil
		}
	}
	return false, scanner.Err()
}

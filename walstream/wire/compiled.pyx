# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Records of Kafka's format 2, read and written without an object for what nobody looks at.

A `Record` is a view into the fetched bytes: key, value and headers become objects when they are asked for. On the
common path nobody asks: `plain_event` reads the attributes where they stand, and `RecordWriter.append_entry` copies
key, value and headers from one batch into the next as they are.

`plain.py` is the same in Python. The format: https://kafka.apache.org/documentation/#recordbatch.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy

from hashlib import blake2b

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef struct Frame:
    # Where the parts of one record stand. A null key or value has no address.
    int64_t timestamp_delta
    int64_t offset_delta
    const uint8_t* fields  # key and value with their lengths, up to the count of the headers
    Py_ssize_t fields_size
    const uint8_t* key
    Py_ssize_t key_size
    const uint8_t* value
    Py_ssize_t value_size
    const uint8_t* headers  # behind their count
    const uint8_t* end
    int64_t header_count
    bint is_odd  # a header's name is not ASCII, or null


# Reading


cdef inline bint read_varint(const uint8_t** at, const uint8_t* end, int64_t* number) noexcept nogil:
    """A signed integer of up to ten bytes, seven bits in each, the lowest first; zigzag."""
    cdef uint64_t bits = 0
    cdef int shift = 0
    cdef uint8_t byte
    while shift < 70:
        if at[0] == end:
            return False
        byte = at[0][0]
        at[0] += 1
        bits |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            number[0] = <int64_t>(bits >> 1) ^ -<int64_t>(bits & 1)
            return True
        shift += 7
    return False


cdef inline bint read_block(
    const uint8_t** at, const uint8_t* end, const uint8_t** block, Py_ssize_t* size
) noexcept nogil:
    """Bytes with their length in front; a negative one is null."""
    cdef int64_t length
    block[0] = NULL
    size[0] = 0
    if not read_varint(at, end, &length):
        return False
    if length < 0:
        return True
    if length > end - at[0]:
        return False
    block[0] = at[0]
    size[0] = length
    at[0] += length
    return True


cdef inline bint is_ascii(const uint8_t* text, Py_ssize_t size) noexcept nogil:
    cdef uint8_t bits = 0
    cdef Py_ssize_t i
    for i in range(size):
        bits |= text[i]
    return bits < 0x80


cdef bint read_frame(const uint8_t** at, const uint8_t* end, Frame* frame) noexcept nogil:
    """Read one record, and leave the address behind it; False where it does not follow the format."""
    cdef int64_t length
    if not read_varint(at, end, &length) or length < 1 or length > end - at[0]:
        return False
    end = at[0] + length
    at[0] += 1  # attributes, of which none is in use
    return (
        read_varint(at, end, &frame.timestamp_delta)
        and read_varint(at, end, &frame.offset_delta)
        and read_fields(at, end, frame)
        and read_varint(at, end, &frame.header_count)
        and read_headers(at, end, frame)
    )


cdef inline bint read_fields(const uint8_t** at, const uint8_t* end, Frame* frame) noexcept nogil:
    """Read key and value."""
    frame.fields = at[0]
    if not (
        read_block(at, end, &frame.key, &frame.key_size) and read_block(at, end, &frame.value, &frame.value_size)
    ):
        return False
    frame.fields_size = at[0] - frame.fields
    return True


cdef inline bint read_headers(const uint8_t** at, const uint8_t* end, Frame* frame) noexcept nogil:
    """Look over as many headers as are counted, with which the record ends."""
    cdef int64_t i
    cdef const uint8_t* part
    cdef Py_ssize_t size
    frame.headers, frame.end = at[0], end
    frame.is_odd = False
    if frame.header_count < 0:
        return False
    for i in range(frame.header_count):
        if not read_block(at, end, &part, &size):
            return False
        if part == NULL or not is_ascii(part, size):
            frame.is_odd = True
        if not read_block(at, end, &part, &size):
            return False
    return at[0] == end


cdef inline object block_or_none(const uint8_t* block, Py_ssize_t size):
    return None if block == NULL else PyBytes_FromStringAndSize(<const char*>block, size)


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Record:
    """A record where it was fetched to; see `plain.Record`."""

    cdef bytes _data  # keeps the addresses valid
    cdef Frame _frame
    cdef readonly int64_t offset
    cdef readonly int64_t timestamp
    cdef readonly int timestamp_type

    @property
    def key(self):
        return block_or_none(self._frame.key, self._frame.key_size)

    @property
    def value(self):
        return block_or_none(self._frame.value, self._frame.value_size)

    @property
    def headers(self):
        cdef const uint8_t* at = self._frame.headers
        cdef const uint8_t* name = NULL
        cdef const uint8_t* value = NULL
        cdef Py_ssize_t name_size = 0, value_size = 0
        cdef int64_t i
        cdef const char* errors = b"backslashreplace"
        headers = []
        for i in range(self._frame.header_count):
            read_block(&at, self._frame.end, &name, &name_size)
            read_block(&at, self._frame.end, &value, &value_size)
            headers.append(
                (
                    "" if name == NULL else PyUnicode_DecodeUTF8(<const char*>name, name_size, errors),
                    block_or_none(value, value_size),
                )
            )
        return headers

    @property
    def size(self):
        """Bytes of key, value and headers as they are encoded: not less than what they have."""
        return self._frame.key_size + self._frame.value_size + (self._frame.end - self._frame.headers)

    @property
    def parts(self):
        return (
            PyBytes_FromStringAndSize(<const char*>self._frame.fields, self._frame.fields_size),
            self._frame.header_count,
            PyBytes_FromStringAndSize(<const char*>self._frame.headers, self._frame.end - self._frame.headers),
        )

    @property
    def misnamed(self):
        cdef const uint8_t* at = self._frame.headers
        cdef const uint8_t* name = NULL
        cdef const uint8_t* value = NULL
        cdef Py_ssize_t name_size = 0, value_size = 0
        cdef int64_t i
        if not self._frame.is_odd:
            return ()
        found = []
        for i in range(self._frame.header_count):
            read_block(&at, self._frame.end, &name, &name_size)
            read_block(&at, self._frame.end, &value, &value_size)
            raw = block_or_none(name, name_size) or b""
            text = raw.decode(errors="backslashreplace")
            if text.encode() != raw:
                found.append(text)
        return tuple(found)


@cython.final
cdef class RecordReader:
    """The records of one batch, one after the other; see `plain.RecordReader`."""

    cdef bytes _data
    cdef const uint8_t* _at
    cdef const uint8_t* _end
    cdef int64_t _base, _first_timestamp, _append_time

    def __init__(
        self, bytes data, Py_ssize_t start, Py_ssize_t end, int64_t count, int64_t base, int64_t first_timestamp,
        append_time=None,
    ):
        cdef Frame frame
        cdef int64_t i
        cdef const uint8_t* at
        if not 0 <= start <= end <= len(data):
            raise ValueError(f"there are no bytes {start} to {end} in {len(data)}")
        self._data = data
        self._at = at = <const uint8_t*>PyBytes_AS_STRING(data) + start
        self._end = <const uint8_t*>PyBytes_AS_STRING(data) + end
        self._base, self._first_timestamp = base, first_timestamp
        self._append_time = -1 if append_time is None else append_time
        # All of it is looked at before the first record is given out: a batch is readable, or it is not.
        for i in range(count):
            if not read_frame(&at, self._end, &frame):
                raise ValueError(f"record {i} of the batch does not follow the format")
        if at != self._end:
            raise ValueError(f"{self._end - at} bytes stand behind the last record")

    def __iter__(self):
        return self

    def __next__(self):
        cdef Record record
        if self._at == self._end:
            raise StopIteration
        record = Record.__new__(Record)
        read_frame(&self._at, self._end, &record._frame)
        record._data = self._data
        record.offset = self._base + record._frame.offset_delta
        if self._append_time >= 0:
            record.timestamp, record.timestamp_type = self._append_time, 1
        else:
            record.timestamp, record.timestamp_type = self._first_timestamp + record._frame.timestamp_delta, 0
        return record


def record_of(
    bytes data, Py_ssize_t start, Py_ssize_t fields_size, int64_t header_count, int64_t offset, int64_t timestamp
):
    """A record made of its parts; see `plain.record_of`."""
    cdef Record record = Record.__new__(Record)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(data) + start
    cdef const uint8_t* end = <const uint8_t*>PyBytes_AS_STRING(data) + PyBytes_GET_SIZE(data)
    if not (0 <= start <= start + fields_size <= PyBytes_GET_SIZE(data)):
        raise ValueError(f"there are no bytes {start} to {start + fields_size} in {len(data)}")
    record._data = data
    record.offset, record.timestamp, record.timestamp_type = offset, timestamp, 0
    record._frame.header_count = header_count
    if not (
        read_fields(&at, end, &record._frame)
        and record._frame.fields_size == fields_size
        and read_headers(&at, end, &record._frame)
    ):
        raise ValueError("the parts of the record do not follow the format")
    return record


# CloudEvents


cdef inline bint equals(const uint8_t* text, Py_ssize_t size, const char* word, Py_ssize_t word_size) noexcept nogil:
    return size == word_size and memcmp(text, word, size) == 0


cdef bint begins_in_any_case(const uint8_t* text, Py_ssize_t size, const char* word, Py_ssize_t word_size) noexcept nogil:
    """Whether a text begins with a word; the word is lower case."""
    cdef Py_ssize_t i
    cdef uint8_t byte
    if size < word_size:
        return False
    for i in range(word_size):
        byte = text[i]
        if 65 <= byte <= 90:
            byte += 32
        if byte != <uint8_t>word[i]:
            return False
    return True


cdef inline int two_digits(const uint8_t* text) noexcept nogil:
    """A number of two digits, or a negative one where they are none."""
    if not (48 <= text[0] <= 57 and 48 <= text[1] <= 57):
        return -10_000
    return (text[0] - 48) * 10 + text[1] - 48


cdef bint read_utc(const uint8_t* text, Py_ssize_t size, int64_t* microseconds) noexcept nogil:
    """A time such as ``2013-01-01T05:17:00.25Z``; False where it is written otherwise, or does not exist."""
    cdef int64_t year, month, day, hour, minute, second, days, fraction = 0, unit = 100_000
    cdef Py_ssize_t i
    cdef bint leap
    if size < 20 or text[size - 1] != c"Z":
        return False
    if text[4] != c"-" or text[7] != c"-" or text[10] != c"T" or text[13] != c":" or text[16] != c":":
        return False
    year = two_digits(text) * 100 + two_digits(text + 2)
    month, day = two_digits(text + 5), two_digits(text + 8)
    hour, minute, second = two_digits(text + 11), two_digits(text + 14), two_digits(text + 17)
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not (year >= 1 and 1 <= month <= 12 and 1 <= day and 0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return False
    if month == 2:
        if day > 28 + leap:
            return False
    elif day > 30 + (month + (month > 7)) % 2:
        return False
    if size > 20:
        if text[19] != c"." or size == 21:
            return False
        for i in range(20, size - 1):
            if not 48 <= text[i] <= 57:
                return False
            fraction += (text[i] - 48) * unit
            unit //= 10
    # Days since the epoch, with years that begin in March.
    if month <= 2:
        year -= 1
        month += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719_469
    microseconds[0] = ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + fraction
    return True


cdef int64_t MOST_MICROSECONDS = <int64_t>10_000 * 366 * 86_400 * 1_000_000


cdef bint read_duration(const uint8_t* text, Py_ssize_t size, int64_t* microseconds) noexcept nogil:
    """A duration such as ``P1DT2H`` or ``PT0.5S``; False where it is none, or is written in a less common way."""
    cdef const uint8_t* at = text
    cdef const uint8_t* end = text + size
    cdef int64_t total = 0, amount, fraction, unit
    cdef int digits, last = 0, order
    cdef bint timed = False, fractional
    if size < 3 or at[0] != c"P":
        return False
    at += 1
    while at < end:
        if at[0] == c"T":
            if timed:
                return False
            timed, last = True, 3
            at += 1
        amount = fraction = digits = 0
        fractional = False
        while at < end and 48 <= at[0] <= 57 and digits < 7:
            amount = amount * 10 + at[0] - 48
            digits += 1
            at += 1
        if digits == 0 or at == end:
            return False
        if at[0] == c"." or at[0] == c",":
            fractional = True
            at += 1
            unit = 100_000
            while at < end and 48 <= at[0] <= 57 and unit > 0:
                fraction += (at[0] - 48) * unit
                unit //= 10
                at += 1
            if unit == 100_000 or at == end:
                return False
        if at[0] == c"W" and not timed:
            order, unit = 1, 604_800_000_000
        elif at[0] == c"D" and not timed:
            order, unit = 2, 86_400_000_000
        elif at[0] == c"H" and timed:
            order, unit = 4, 3_600_000_000
        elif at[0] == c"M" and timed:
            order, unit = 5, 60_000_000
        elif at[0] == c"S" and timed:
            order, unit = 6, 1_000_000
        else:
            return False
        if order <= last or (fractional and order != 6):
            return False
        last = order
        total += amount * unit + fraction
        if total > MOST_MICROSECONDS:
            return False
        at += 1
    microseconds[0] = total
    return last != 3  # a T with nothing behind it


cdef int MOST_ATTRIBUTES = 32
# What a record may ask for, by the place in what `plain_event` says.
cdef enum:
    DELAY, DELIVER_AT, JITTER, EXPIRY


def plain_event(Record record not None):
    """Read the common kind of record where it stands; see `plain.plain_event`."""
    return read_event(record, record._frame.headers, record._frame.header_count)


cdef object read_event(Record record, const uint8_t* at, int64_t header_count):
    """Read a record whose own headers are these."""
    cdef const uint8_t* name = NULL
    cdef const uint8_t* value = NULL
    cdef const uint8_t* id = NULL
    cdef const uint8_t* source = NULL
    cdef const uint8_t* type = NULL
    cdef const uint8_t* time = NULL
    cdef Py_ssize_t name_size = 0, value_size = 0, id_size = 0, source_size = 0, type_size = 0, time_size = 0
    cdef const uint8_t* others[32]
    cdef Py_ssize_t other_sizes[32]
    cdef int count = 0, i
    cdef int64_t left, microseconds = 0
    cdef int64_t asked[4]
    cdef int asking = 0, wish
    cdef bint versioned = False
    if record._frame.is_odd:
        return None
    for left in range(header_count):
        read_block(&at, record._frame.end, &name, &name_size)
        read_block(&at, record._frame.end, &value, &value_size)
        if name_size >= 3 and memcmp(name, b"ce_", 3) == 0:
            if value == NULL or not is_ascii(value, value_size):
                return None
            if equals(name, name_size, b"ce_id", 5):
                if id != NULL:
                    return None
                id, id_size = value, value_size
            elif equals(name, name_size, b"ce_source", 9):
                if source != NULL:
                    return None
                source, source_size = value, value_size
            elif equals(name, name_size, b"ce_type", 7):
                if type != NULL:
                    return None
                type, type_size = value, value_size
            elif equals(name, name_size, b"ce_time", 7):
                if time != NULL:
                    return None
                time, time_size = value, value_size
            elif equals(name, name_size, b"ce_specversion", 14):
                if versioned or not equals(value, value_size, b"1.0", 3):
                    return None
                versioned = True
            elif begins_in_any_case(name, name_size, b"ce_wal", 6) or equals(name, name_size, b"ce_expirytime", 13):
                if equals(name, name_size, b"ce_waldelay", 11):
                    wish = DELAY
                elif equals(name, name_size, b"ce_waldeliverat", 15):
                    wish = DELIVER_AT
                elif equals(name, name_size, b"ce_waljitter", 12):
                    wish = JITTER
                elif equals(name, name_size, b"ce_expirytime", 13):
                    wish = EXPIRY
                else:
                    return None
                if asking & 1 << wish:
                    return None
                asking |= 1 << wish
                if wish == DELAY or wish == JITTER:
                    if not read_duration(value, value_size, &asked[wish]):
                        return None
                elif not read_utc(value, value_size, &asked[wish]):
                    return None
            else:
                if (
                    equals(name, name_size, b"ce_partitionkey", 15)
                    or count == MOST_ATTRIBUTES
                ):
                    return None
                for i in range(count):
                    if name_size == other_sizes[i] and memcmp(name, others[i], name_size) == 0:
                        return None
                others[count], other_sizes[count] = name, name_size
                count += 1
        elif begins_in_any_case(name, name_size, b"walstream-", 10):
            return None
        elif name_size == 12 and begins_in_any_case(name, name_size, b"content-type", 12) and value != NULL:
            if not is_ascii(value, value_size) or begins_in_any_case(value, value_size, b"application/cloudevents", 23):
                return None
    if not versioned or id_size == 0 or source_size == 0 or type_size == 0:
        return None
    if time != NULL and not read_utc(time, time_size, &microseconds):
        return None
    if asking & (1 << DELAY) and asking & (1 << DELIVER_AT):
        return None
    return (
        hash_identity(record._frame.key, record._frame.key_size, source, source_size, id, id_size),
        None if time == NULL else microseconds,
        PyBytes_FromStringAndSize(<const char*>type, type_size),
        None if not asking else (
            asked[DELAY] if asking & (1 << DELAY) else None,
            asked[DELIVER_AT] if asking & (1 << DELIVER_AT) else None,
            asked[JITTER] if asking & (1 << JITTER) else None,
            asked[EXPIRY] if asking & (1 << EXPIRY) else None,
        ),
    )


cdef bint read_number(const uint8_t* text, Py_ssize_t size, int64_t* number) noexcept nogil:
    """An integer of up to 18 digits."""
    cdef bint negative = size > 0 and text[0] == c"-"
    cdef Py_ssize_t i
    cdef int64_t read = 0
    if text == NULL or not negative < size <= 18 + negative:
        return False
    for i in range(negative, size):
        if not 48 <= text[i] <= 57:
            return False
        read = read * 10 + text[i] - 48
    number[0] = -read if negative else read
    return True


def plain_entry(Record record not None):
    """Read the headers that walstream added in front; see `plain.plain_entry`."""
    cdef const uint8_t* at = record._frame.headers
    cdef const uint8_t* name = NULL
    cdef const uint8_t* value = NULL
    cdef Py_ssize_t name_size = 0, value_size = 0
    cdef int64_t left, time = 0, position = 0, timestamp = 0
    cdef int found = 0  # a bit for each of ours
    cdef const uint8_t* type = NULL
    cdef Py_ssize_t type_size = 0
    cdef bint binary = False, for_all = True, own = False
    cdef object path = b""
    if record._frame.is_odd:
        return None
    for left in range(record._frame.header_count):
        read_block(&at, record._frame.end, &name, &name_size)
        read_block(&at, record._frame.end, &value, &value_size)
        if not own and name_size >= 10 and memcmp(name, b"walstream-", 10) == 0:
            if equals(name, name_size, b"walstream-version", 17):
                if value == NULL or not equals(value, value_size, b"1", 1) or found & 1:
                    return None
                found |= 1
            elif equals(name, name_size, b"walstream-time", 14):
                if not read_number(value, value_size, &time) or found & 2:
                    return None
                found |= 2
            elif equals(name, name_size, b"walstream-position", 18):
                if not read_number(value, value_size, &position) or found & 4:
                    return None
                found |= 4
            elif equals(name, name_size, b"walstream-timestamp", 19):
                if not read_number(value, value_size, &timestamp) or found & 8:
                    return None
                found |= 8
            elif equals(name, name_size, b"walstream-path", 14) and not found & 16 and value != NULL:
                path = PyBytes_FromStringAndSize(<const char*>value, value_size)
                found |= 16
            else:
                return None
            continue
        own = True
        if equals(name, name_size, b"ce_specversion", 14):
            binary = True
        elif equals(name, name_size, b"ce_type", 7):
            type, type_size = value, value_size
        elif equals(name, name_size, b"ce_waltargets", 13):
            for_all = False
        elif name_size == 12 and begins_in_any_case(name, name_size, b"content-type", 12):
            if value != NULL and begins_in_any_case(value, value_size, b"application/cloudevents", 23):
                binary = False
    if found & 15 != 15:
        return None
    if not binary or type == NULL or not is_ascii(type, type_size):
        return time, position, timestamp, path, False, None
    return time, position, timestamp, path, for_all, PyBytes_FromStringAndSize(<const char*>type, type_size)


# Between regions

cdef struct Part:
    # The value of a header.
    const uint8_t* text
    Py_ssize_t size


cdef struct Added:
    # The headers that walstream added in front.
    Part version, kind, time, timestamp, path
    bint is_replica  # they are those of a record that another region sent, and no others
    int64_t count
    const uint8_t* own  # behind them


cdef void read_added(Record record, Added* added) noexcept:
    """Read the headers that walstream added in front; of those that it does not know it only knows the number."""
    cdef const uint8_t* at = record._frame.headers
    cdef const uint8_t* name = NULL
    cdef Py_ssize_t name_size = 0
    cdef Part value, nothing
    cdef Part* place
    nothing.text, nothing.size = NULL, 0
    added.version = added.kind = added.time = added.timestamp = added.path = nothing
    added.is_replica = True
    added.count, added.own = 0, at
    while added.count < record._frame.header_count:
        read_block(&at, record._frame.end, &name, &name_size)
        if name_size < 10 or memcmp(name, b"walstream-", 10) != 0:
            break
        read_block(&at, record._frame.end, &value.text, &value.size)
        if equals(name, name_size, b"walstream-version", 17):
            place = &added.version
        elif equals(name, name_size, b"walstream-kind", 14):
            place = &added.kind
        elif equals(name, name_size, b"walstream-time", 14):
            place = &added.time
        elif equals(name, name_size, b"walstream-timestamp", 19):
            place = &added.timestamp
        elif equals(name, name_size, b"walstream-path", 14):
            place = &added.path
        else:
            place = NULL
            added.is_replica = False
        if place != NULL:
            if place.text != NULL or value.text == NULL:
                added.is_replica = False
            place[0] = value
        added.own = at
        added.count += 1


def plain_replica(Record record not None):
    """Read the common kind of record that another region sent where it stands; see `plain.plain_replica`."""
    cdef Added added
    cdef int64_t time = 0, timestamp = 0
    if record._frame.is_odd:
        return None
    read_added(record, &added)
    if not (
        added.is_replica
        and added.kind.text == NULL
        and added.path.size > 0
        and added.version.text != NULL and equals(added.version.text, added.version.size, b"1", 1)
        and read_number(added.time.text, added.time.size, &time)
        and read_number(added.timestamp.text, added.timestamp.size, &timestamp)
    ):
        return None
    found = read_event(record, added.own, record._frame.header_count - added.count)
    if found is None:
        return None
    return found[0], time, timestamp, PyBytes_FromStringAndSize(<const char*>added.path.text, added.path.size)


# On a retry topic

cdef enum:
    # The numbers in front of what is to be tried again, by their places in what `plain_attempt` says.
    TIME, POSITION, TIMESTAMP, LOG_POSITION, COUNT, AGE, DUE, WHEN, NUMBERS


cdef inline int number_of_attempt(const uint8_t* name, Py_ssize_t size) noexcept nogil:
    """Which of the numbers a header has; -1 is none of them."""
    if equals(name, size, b"walstream-time", 14):
        return TIME
    if equals(name, size, b"walstream-position", 18):
        return POSITION
    if equals(name, size, b"walstream-timestamp", 19):
        return TIMESTAMP
    if equals(name, size, b"walstream-log-position", 22):
        return LOG_POSITION
    if equals(name, size, b"walstream-attempt", 17):
        return COUNT
    if equals(name, size, b"walstream-age", 13):
        return AGE
    if equals(name, size, b"walstream-due", 13):
        return DUE
    if equals(name, size, b"walstream-when", 14):
        return WHEN
    return -1


def plain_attempt(found not None):
    """Read the headers in front of what is to be tried again; see `plain.plain_attempt`."""
    cdef const uint8_t* at
    cdef const uint8_t* name = NULL
    cdef const uint8_t* value = NULL
    cdef Py_ssize_t name_size = 0, value_size = 0
    cdef int64_t numbers[8]
    cdef int which, seen = 0
    cdef int64_t left
    cdef bint versioned = False, own = False, binary = False, identified = False, sourced = False
    cdef object type = None
    cdef Record record
    if not isinstance(found, Record):
        return None
    record = <Record>found
    if record._frame.is_odd:
        return None
    at = record._frame.headers
    numbers[LOG_POSITION] = -1
    for left in range(record._frame.header_count):
        read_block(&at, record._frame.end, &name, &name_size)
        read_block(&at, record._frame.end, &value, &value_size)
        if not own and name_size >= 10 and memcmp(name, b"walstream-", 10) == 0:
            which = number_of_attempt(name, name_size)
            if which >= 0:
                if seen & 1 << which or not read_number(value, value_size, &numbers[which]):
                    return None
                seen |= 1 << which
            elif equals(name, name_size, b"walstream-version", 17):
                if versioned or value == NULL or not equals(value, value_size, b"1", 1):
                    return None
                versioned = True
            elif not equals(name, name_size, b"walstream-target", 16):
                return None
            continue
        own = True
        if value == NULL or not is_ascii(value, value_size):
            return None
        if equals(name, name_size, b"ce_specversion", 14):
            binary = equals(value, value_size, b"1.0", 3)
        elif equals(name, name_size, b"ce_id", 5):
            identified = value_size > 0
        elif equals(name, name_size, b"ce_source", 9):
            sourced = value_size > 0
        elif equals(name, name_size, b"ce_type", 7):
            if type is not None or value_size == 0:
                return None
            type = PyBytes_FromStringAndSize(<const char*>value, value_size)
        elif begins_in_any_case(name, name_size, b"ce_wal", 6) or begins_in_any_case(name, name_size, b"walstream-", 10):
            return None
        elif name_size == 12 and begins_in_any_case(name, name_size, b"content-type", 12):
            if begins_in_any_case(value, value_size, b"application/cloudevents", 23):
                return None
    if not (versioned and binary and identified and sourced and type is not None):
        return None
    if seen | 1 << LOG_POSITION != (1 << NUMBERS) - 1:
        return None
    if seen & 1 << LOG_POSITION and numbers[LOG_POSITION] < 0:
        return None
    if numbers[POSITION] < -1 or numbers[COUNT] < 0 or numbers[AGE] < 0 or numbers[DUE] < 0 or numbers[WHEN] < 0:
        return None
    return (
        numbers[TIME], numbers[POSITION], numbers[TIMESTAMP], numbers[LOG_POSITION], numbers[COUNT], numbers[AGE],
        numbers[DUE], numbers[WHEN], type,
    )


# Mutations

cdef enum:
    # How a column's bytes are made, the lowest four bits of what `plain_mutation` is told; the others are its place.
    TEXT, ASCII, BOOLEAN, INT8, INT16, INT32, INT64


cdef inline const uint8_t* skip_space(const uint8_t* at, const uint8_t* end) noexcept nogil:
    while at < end and (at[0] == c" " or at[0] == c"\n" or at[0] == c"\t" or at[0] == c"\r"):
        at += 1
    return at


cdef inline bint read_sign(const uint8_t** at, const uint8_t* end, uint8_t sign) noexcept nogil:
    """Pass a sign of JSON's, and white space on both sides."""
    at[0] = skip_space(at[0], end)
    if at[0] == end or at[0][0] != sign:
        return False
    at[0] = skip_space(at[0] + 1, end)
    return True


cdef inline bint read_text(const uint8_t** at, const uint8_t* end, Part* text) noexcept nogil:
    """Read a string of JSON that has nothing to be replaced in it."""
    cdef const uint8_t* here = at[0] + 1
    if at[0] == end or at[0][0] != c'"':
        return False
    text.text = here
    while here < end and here[0] != c'"':
        if here[0] < 0x20 or here[0] == c"\\":
            return False
        here += 1
    if here == end:
        return False
    text.size = here - text.text
    at[0] = here + 1
    return True


cdef inline bint read_word(const uint8_t** at, const uint8_t* end, const char* word, Py_ssize_t size) noexcept nogil:
    if end - at[0] < size or memcmp(at[0], word, size) != 0:
        return False
    at[0] += size
    return True


cdef inline bint read_integer(const uint8_t** at, const uint8_t* end, int64_t* number) noexcept nogil:
    """Read an integer of JSON of up to 18 digits; what stands behind it is not looked at."""
    cdef const uint8_t* begin = at[0]
    cdef const uint8_t* digits
    cdef const uint8_t* here
    if begin < end and begin[0] == c"-":
        begin += 1
    digits = here = begin
    while here < end and 48 <= here[0] <= 57:
        here += 1
    if here == digits or (digits[0] == c"0" and here - at[0] > 1):
        return False
    begin, at[0] = at[0], here
    return read_number(begin, here - begin, number)


cdef object read_column(const uint8_t** at, const uint8_t* end, int kind, bint ascii):
    """Read a value of a column, as Cassandra has it; None where it is another one, or written otherwise."""
    cdef Part text
    cdef int64_t number = 0
    cdef int size, i
    cdef uint8_t encoded[8]
    if kind <= ASCII:
        if not read_text(at, end, &text) or (kind == ASCII and not ascii):
            return None
        return PyBytes_FromStringAndSize(<const char*>text.text, text.size)
    if kind == BOOLEAN:
        if read_word(at, end, b"true", 4):
            return b"\1"
        return b"\0" if read_word(at, end, b"false", 5) else None
    if not read_integer(at, end, &number):
        return None
    size = 1 << kind - INT8
    if size < 8 and not -(<int64_t>1 << 8 * size - 1) <= number < <int64_t>1 << 8 * size - 1:
        return None
    for i in range(size):
        encoded[i] = <uint8_t>(number >> 8 * (size - 1 - i))
    return PyBytes_FromStringAndSize(<const char*>encoded, size)


cdef bint read_columns(
    const uint8_t** at, const uint8_t* end, dict columns, bint ascii, list values, bint with_null, uint64_t* seen
) except -1:
    """Read an object of columns: each one's place and value; False where something is not of the common kind."""
    cdef Part name
    cdef int code
    cdef object value
    if not read_sign(at, end, c"{"):
        return False
    if at[0] < end and at[0][0] == c"}":
        return read_sign(at, end, c"}")
    while True:
        if not read_text(at, end, &name) or not read_sign(at, end, c":"):
            return False
        known = columns.get(PyBytes_FromStringAndSize(<const char*>name.text, name.size))
        if known is None:
            return False
        code = known
        if seen[0] & <uint64_t>1 << (code >> 4):
            return False
        seen[0] |= <uint64_t>1 << (code >> 4)
        if with_null and read_word(at, end, b"null", 4):
            value = None
        else:
            value = read_column(at, end, code & 15, ascii)
            if value is None:
                return False
        values.append((code >> 4, value))
        if not read_sign(at, end, c","):
            return read_sign(at, end, c"}")


def plain_mutation(bytes payload not None, dict key not None, dict others not None):
    """Read the common kind of mutation without an object for its JSON; see `plain.plain_mutation`."""
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(payload)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(payload)
    cdef Part word, op, table
    cdef bint ascii = is_ascii(at, end - at)
    cdef uint64_t keys = 0, columns = 0
    cdef list named = [], values = []
    cdef int seen = 0, which
    cdef bint is_put
    if not ascii:
        try:
            payload.decode()
        except UnicodeDecodeError:
            return None
    if not read_sign(&at, end, c"{"):
        return None
    while True:
        if not read_text(&at, end, &word) or not read_sign(&at, end, c":"):
            return None
        if equals(word.text, word.size, b"op", 2):
            which = 1
            if not read_text(&at, end, &op):
                return None
        elif equals(word.text, word.size, b"table", 5):
            which = 2
            if not read_text(&at, end, &table) or not table.size:
                return None
        elif equals(word.text, word.size, b"key", 3):
            which = 4
            if seen & which or not read_columns(&at, end, key, ascii, named, False, &keys):
                return None
        elif equals(word.text, word.size, b"set", 3):
            which = 8
            if seen & which or not read_columns(&at, end, others, ascii, values, True, &columns):
                return None
        else:
            return None
        if seen & which:
            return None
        seen |= which
        if not read_sign(&at, end, c","):
            break
    if not read_sign(&at, end, c"}") or at != end or seen & 5 != 5 or len(named) != len(key):
        return None
    is_put = equals(op.text, op.size, b"put", 3)
    if is_put != (seen & 8 != 0) or not (is_put or equals(op.text, op.size, b"delete", 6)):
        return None
    if len(named) > 1:
        named.sort()
    return (
        is_put,
        PyUnicode_DecodeUTF8(<const char*>table.text, table.size, NULL) if seen & 2 else None,
        [value for _, value in named],
        values,
    )


cdef struct Names:
    # Columns that a mutation has named so far.
    int count
    Part each[64]


cdef inline bint read_name(const uint8_t** at, const uint8_t* end, Names* names) noexcept nogil:
    """Read the name of a column that was not named yet, and the sign behind it."""
    cdef Part name
    cdef int i
    if names.count == 64 or not read_text(at, end, &name) or not name.size or not read_sign(at, end, c":"):
        return False
    for i in range(names.count):
        if names.each[i].size == name.size and memcmp(names.each[i].text, name.text, name.size) == 0:
            return False
    names.each[names.count] = name
    names.count += 1
    return True


cdef object read_simple(const uint8_t** at, const uint8_t* end):
    """Read a text, an integer or a truth value of JSON; None where it is another one, or written otherwise."""
    cdef Part text
    cdef int64_t number = 0
    if read_text(at, end, &text):
        return PyUnicode_DecodeUTF8(<const char*>text.text, text.size, NULL)
    if read_word(at, end, b"true", 4):
        return True
    if read_word(at, end, b"false", 5):
        return False
    return number if read_integer(at, end, &number) else None


cdef bint read_key(const uint8_t** at, const uint8_t* end, Names* names, dict columns) except -1:
    """Read the columns of a key; False where something is not of the common kind."""
    cdef Part* name
    if not read_sign(at, end, c"{"):
        return False
    while True:
        if not read_name(at, end, names):
            return False
        name = &names.each[names.count - 1]
        value = read_simple(at, end)
        if value is None:
            return False
        columns[PyUnicode_DecodeUTF8(<const char*>name.text, name.size, NULL)] = value
        if not read_sign(at, end, c","):
            return read_sign(at, end, c"}")


cdef bint pass_columns(const uint8_t** at, const uint8_t* end, Names* names) noexcept nogil:
    """Pass an object of columns; False where something is not of the common kind."""
    cdef Part text
    cdef int64_t number = 0
    if not read_sign(at, end, c"{"):
        return False
    if at[0] < end and at[0][0] == c"}":
        return read_sign(at, end, c"}")
    while True:
        if not read_name(at, end, names):
            return False
        if not (
            read_text(at, end, &text)
            or read_word(at, end, b"null", 4)
            or read_word(at, end, b"true", 4)
            or read_word(at, end, b"false", 5)
            or read_integer(at, end, &number)
        ):
            return False
        if not read_sign(at, end, c","):
            return read_sign(at, end, c"}")


def plain_key(bytes payload not None):
    """Read the key of the common kind of mutation without an object for its JSON; see `plain.plain_key`."""
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(payload)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(payload)
    cdef Part word, op, table
    cdef Names names
    cdef dict columns = {}
    cdef int seen = 0, which
    cdef bint is_put
    names.count = 0
    if not is_ascii(at, end - at):
        try:
            payload.decode()
        except UnicodeDecodeError:
            return None
    if not read_sign(&at, end, c"{"):
        return None
    while True:
        if not read_text(&at, end, &word) or not read_sign(&at, end, c":"):
            return None
        if equals(word.text, word.size, b"op", 2):
            which = 1
            if not read_text(&at, end, &op):
                return None
        elif equals(word.text, word.size, b"table", 5):
            which = 2
            if not read_text(&at, end, &table) or not table.size:
                return None
        elif equals(word.text, word.size, b"key", 3):
            which = 4
            if not read_key(&at, end, &names, columns):
                return None
        elif equals(word.text, word.size, b"set", 3):
            which = 8
            if not pass_columns(&at, end, &names):
                return None
        else:
            return None
        if seen & which:
            return None
        seen |= which
        if not read_sign(&at, end, c","):
            break
    if not read_sign(&at, end, c"}") or at != end or seen & 5 != 5:
        return None
    is_put = equals(op.text, op.size, b"put", 3)
    if is_put != (seen & 8 != 0) or not (is_put or equals(op.text, op.size, b"delete", 6)):
        return None
    return columns


cdef uint32_t murmur2(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    """The hash of `walstream.murmur2`."""
    cdef uint32_t m = 0x5BD1E995
    cdef uint32_t h = <uint32_t>0x9747B28C ^ <uint32_t>size
    cdef uint32_t k
    cdef Py_ssize_t i = 0
    while i + 4 <= size:
        k = data[i] | <uint32_t>data[i + 1] << 8 | <uint32_t>data[i + 2] << 16 | <uint32_t>data[i + 3] << 24
        k *= m
        k ^= k >> 24
        k *= m
        h = h * m ^ k
        i += 4
    if i < size:
        k = data[i]
        if i + 1 < size:
            k |= <uint32_t>data[i + 1] << 8
        if i + 2 < size:
            k |= <uint32_t>data[i + 2] << 16
        h = (h ^ k) * m
    h = (h ^ h >> 13) * m
    return h ^ h >> 15


def partition_of(Record record not None, uint32_t partitions):
    """The partition of a record's key; see `plain.partition_of`."""
    if record._frame.key == NULL:
        return -1
    return (murmur2(record._frame.key, record._frame.key_size) & 0x7FFFFFFF) % partitions


cdef object hash_identity(
    const uint8_t* key, Py_ssize_t key_size, const uint8_t* source, Py_ssize_t source_size,
    const uint8_t* id, Py_ssize_t id_size,
):
    """What `walstream.identity` makes of these."""
    cdef char lengths[48]
    cdef int size = snprintf(lengths, 48, b"%zd %zd ", <Py_ssize_t>-1 if key == NULL else key_size, source_size)
    cdef bytes text = PyBytes_FromStringAndSize(NULL, size + key_size + source_size + id_size)
    cdef char* at = PyBytes_AS_STRING(text)
    memcpy(at, lengths, size)
    at += size
    if key_size:
        memcpy(at, key, key_size)
        at += key_size
    memcpy(at, source, source_size)
    memcpy(at + source_size, id, id_size)
    return blake2b(text, digest_size=16).digest()


# Writing


cdef inline Py_ssize_t varint_size(int64_t number) noexcept nogil:
    cdef uint64_t bits = (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)
    cdef Py_ssize_t size = 1
    while bits > 0x7F:
        bits >>= 7
        size += 1
    return size


cdef inline uint8_t* write_varint(uint8_t* at, int64_t number) noexcept nogil:
    cdef uint64_t bits = (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)
    while bits > 0x7F:
        at[0] = <uint8_t>(bits & 0x7F) | 0x80
        at += 1
        bits >>= 7
    at[0] = <uint8_t>bits
    return at + 1


cdef inline uint8_t* write_bytes(uint8_t* at, const void* data, Py_ssize_t size) noexcept nogil:
    memcpy(at, data, size)
    return at + size


cdef inline uint8_t* write_block(uint8_t* at, const void* block, Py_ssize_t size) noexcept nogil:
    if block == NULL:
        return write_varint(at, -1)
    return write_bytes(write_varint(at, size), block, size)


cdef inline Py_ssize_t block_size(const void* block, Py_ssize_t size) noexcept nogil:
    return 1 if block == NULL else varint_size(size) + size


@cython.final
cdef class RecordWriter:
    """The records of a batch that is being filled; see `plain.RecordWriter`."""

    cdef uint8_t* _buffer
    cdef Py_ssize_t _size, _capacity, _limit
    cdef readonly int64_t count
    cdef readonly int64_t first_timestamp
    cdef readonly int64_t max_timestamp

    def __cinit__(self, Py_ssize_t limit):
        self._limit = limit
        self.first_timestamp = self.max_timestamp = -1

    def __dealloc__(self):
        PyMem_Free(self._buffer)

    @property
    def size(self):
        return self._size

    def payload(self):
        if self._buffer == NULL and self._size:
            raise ValueError("the payload was taken already")
        payload = PyBytes_FromStringAndSize(<const char*>self._buffer, self._size)
        PyMem_Free(self._buffer)  # a megabyte or two, which else lives as long as its checkpoint
        self._buffer, self._capacity = NULL, 0
        self._limit = -1
        return payload

    cdef uint8_t* _begin(
        self, int64_t timestamp, const uint8_t* key, Py_ssize_t key_size, const uint8_t* value, Py_ssize_t value_size,
        int64_t header_count, Py_ssize_t headers_size,
    ) except? NULL:
        """Write a record up to its headers, which have so many bytes; no address where it does not fit."""
        cdef int64_t delta = timestamp - self.first_timestamp if self.count else 0
        cdef Py_ssize_t body = (
            1 + varint_size(delta) + varint_size(self.count) + block_size(key, key_size)
            + block_size(value, value_size) + varint_size(header_count) + headers_size
        )
        cdef Py_ssize_t end = self._size + varint_size(body) + body
        cdef Py_ssize_t capacity
        cdef uint8_t* grown
        cdef uint8_t* at
        if end > self._limit and (self.count or self._limit < 0):
            return NULL
        if end > self._capacity:
            capacity = max(2 * self._capacity, end, 4096)
            grown = <uint8_t*>PyMem_Realloc(self._buffer, capacity)
            if grown == NULL:
                raise MemoryError
            self._buffer, self._capacity = grown, capacity
        at = write_varint(self._buffer + self._size, body)
        at[0] = 0  # attributes, of which none is in use
        at = write_varint(at + 1, delta)
        at = write_varint(at, self.count)
        at = write_block(at, key, key_size)
        at = write_block(at, value, value_size)
        at = write_varint(at, header_count)
        if not self.count:
            self.first_timestamp = timestamp
        if not self.count or timestamp > self.max_timestamp:
            self.max_timestamp = timestamp
        self.count += 1
        self._size = end
        return at

    def append(self, int64_t timestamp, bytes key, bytes value, list headers=None):
        cdef Py_ssize_t headers_size = 0, name_size
        cdef const char* name
        cdef bytes text
        cdef uint8_t* at
        if headers is not None:
            for header, text in headers:
                PyUnicode_AsUTF8AndSize(header, &name_size)
                headers_size += varint_size(name_size) + name_size
                headers_size += 1 if text is None else block_size(<char*>text, PyBytes_GET_SIZE(text))
        at = self._begin(
            timestamp,
            NULL if key is None else <const uint8_t*><char*>key, 0 if key is None else PyBytes_GET_SIZE(key),
            NULL if value is None else <const uint8_t*><char*>value, 0 if value is None else PyBytes_GET_SIZE(value),
            0 if headers is None else len(headers), headers_size,
        )
        if at == NULL:
            return False
        if headers is not None:
            for header, text in headers:
                name = PyUnicode_AsUTF8AndSize(header, &name_size)
                at = write_block(at, name, name_size)
                if text is None:
                    at = write_block(at, NULL, 0)
                else:
                    at = write_block(at, <char*>text, PyBytes_GET_SIZE(text))
        return True

    def append_rows(self, int64_t timestamp, bytes prefix not None, list rows not None, Py_ssize_t start):
        cdef Py_ssize_t i
        cdef bytes key, value
        for i in range(start, len(rows)):
            key, value = rows[i]
            if key is None:
                raise TypeError("a row has no key")
            if prefix:
                key = prefix + key
            if self._begin(
                timestamp, <const uint8_t*>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
                NULL if value is None else <const uint8_t*>PyBytes_AS_STRING(value),
                0 if value is None else PyBytes_GET_SIZE(value), 0, 0,
            ) == NULL:
                return i
        return len(rows)

    def append_entry(self, Record record not None, int64_t time):
        cdef char numbers[3][24]
        cdef int sizes[3]
        cdef Py_ssize_t own = record._frame.end - record._frame.headers
        cdef Py_ssize_t added
        cdef uint8_t* at
        sizes[0] = snprintf(numbers[0], 24, b"%lld", <long long>time)
        sizes[1] = snprintf(numbers[1], 24, b"%lld", <long long>record.offset)
        sizes[2] = snprintf(numbers[2], 24, b"%lld", <long long>record.timestamp)
        added = 1 + 17 + 2 + 1 + 14 + 1 + sizes[0] + 1 + 18 + 1 + sizes[1] + 1 + 19 + 1 + sizes[2]
        at = self._begin(
            record.timestamp, record._frame.key, record._frame.key_size, record._frame.value, record._frame.value_size,
            record._frame.header_count + 4, added + own,
        )
        if at == NULL:
            return False
        at = write_block(write_block(at, b"walstream-version", 17), b"1", 1)
        at = write_block(write_block(at, b"walstream-time", 14), numbers[0], sizes[0])
        at = write_block(write_block(at, b"walstream-position", 18), numbers[1], sizes[1])
        at = write_block(write_block(at, b"walstream-timestamp", 19), numbers[2], sizes[2])
        write_bytes(at, record._frame.headers, own)
        return True

    def append_original(self, Record record not None, int64_t timestamp):
        cdef const uint8_t* at = record._frame.headers
        cdef const uint8_t* own = at
        cdef const uint8_t* part = NULL
        cdef Py_ssize_t size = 0
        cdef int64_t added = 0
        cdef uint8_t* to
        while added < record._frame.header_count:
            read_block(&at, record._frame.end, &part, &size)
            if size < 10 or memcmp(part, b"walstream-", 10) != 0:
                break
            read_block(&at, record._frame.end, &part, &size)
            own = at
            added += 1
        to = self._begin(
            timestamp, record._frame.key, record._frame.key_size, record._frame.value, record._frame.value_size,
            record._frame.header_count - added, record._frame.end - own,
        )
        if to == NULL:
            return False
        write_bytes(to, own, record._frame.end - own)
        return True

    def append_sent(self, Record record not None, int64_t timestamp, bytes path not None):
        cdef Added added
        read_added(record, &added)
        return self._append_between(record, &added, timestamp, NULL, 0, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))

    def append_received(self, Record record not None):
        cdef Added added
        cdef char number[24]
        cdef int size = snprintf(number, 24, b"%lld", <long long>record.offset)
        read_added(record, &added)
        return self._append_between(
            record, &added, record.timestamp, number, size, <const char*>added.path.text, added.path.size
        )

    cdef bint _append_between(
        self, Record record, Added* added, int64_t timestamp, const char* position, Py_ssize_t position_size,
        const char* path, Py_ssize_t path_size,
    ) except -1:
        """Add a record that travels between regions, with such a position, if any, and path."""
        cdef Py_ssize_t own = record._frame.end - added.own
        cdef int64_t count = 4
        cdef Py_ssize_t size = 1 + 17 + 2
        cdef uint8_t* at
        if added.time.text == NULL or added.timestamp.text == NULL or path == NULL:
            raise ValueError("the record has neither been on the log nor come from another region")
        size += 1 + 14 + block_size(added.time.text, added.time.size)
        size += 1 + 19 + block_size(added.timestamp.text, added.timestamp.size)
        size += 1 + 14 + block_size(path, path_size)
        if position != NULL:
            count += 1
            size += 1 + 18 + block_size(position, position_size)
        if added.kind.text != NULL:
            count += 1
            size += 1 + 14 + block_size(added.kind.text, added.kind.size)
        at = self._begin(
            timestamp, record._frame.key, record._frame.key_size, record._frame.value, record._frame.value_size,
            record._frame.header_count - added.count + count, size + own,
        )
        if at == NULL:
            return False
        at = write_block(write_block(at, b"walstream-version", 17), b"1", 1)
        at = write_block(write_block(at, b"walstream-time", 14), added.time.text, added.time.size)
        if position != NULL:
            at = write_block(write_block(at, b"walstream-position", 18), position, position_size)
        at = write_block(write_block(at, b"walstream-timestamp", 19), added.timestamp.text, added.timestamp.size)
        at = write_block(write_block(at, b"walstream-path", 14), path, path_size)
        if added.kind.text != NULL:
            at = write_block(write_block(at, b"walstream-kind", 14), added.kind.text, added.kind.size)
        write_bytes(at, added.own, own)
        return True

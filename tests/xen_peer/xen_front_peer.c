/* A blkif front made of Xen's macros, which believes nothing the back says.
 *
 * Fills the device, then mixes reads, writes, flushes and discards, many in flight,
 * never two that overlap.  `shadow` is what the device must hold; `known` says for
 * which sectors (a discarded one may read as anything).  Page 0..data_pages-1 of the
 * data area are the grefs; bytes of a page outside a segment must survive a read.
 *
 * Prints one line of JSON.  Exit: 0 good, 1 wrong data, 2 usage, 3 protocol, 4 hang.
 */
#include "peer.h"

enum { MAX_SEGS = 24, CANARY = 0x5A };

struct work {
    bool busy;
    uint8_t op, answer_op;
    uint64_t sector;
    unsigned nr_sectors, nr_segs;
    struct blkif_request_segment segs[MAX_SEGS];
    long table; /* page of indirect segments, or -1 */
};

static struct peer peer;
static struct blkif_front_ring front;
static struct work *works;
static uint8_t *shadow, *known;
static uint32_t *free_pages;
static long nr_free, in_flight, issued, by_op[7], indirects, verified;

static uint32_t page_get(void)
{
    uint32_t page = free_pages[--nr_free];
    memset(peer.data + (size_t)page * PAGE, CANARY, PAGE);
    return page;
}

static void page_put(uint32_t page)
{
    free_pages[nr_free++] = page;
}

static uint8_t *segment_bytes(const struct blkif_request_segment *seg)
{
    return peer.data + (size_t)seg->gref * PAGE + (size_t)seg->first_sect * SECTOR;
}

static unsigned segment_sectors(const struct blkif_request_segment *seg)
{
    return seg->last_sect - seg->first_sect + 1u;
}

static bool overlaps(uint64_t sector, unsigned count)
{
    for (long i = 0; i < peer.slots; i++)
        if (works[i].busy && sector < works[i].sector + works[i].nr_sectors &&
            works[i].sector < sector + count)
            return true;
    return false;
}

/* ---- asking ------------------------------------------------------------ */

static void work_segments(struct work *work, unsigned nr_segs, bool whole)
{
    work->nr_segs = nr_segs;
    work->nr_sectors = 0;
    for (unsigned i = 0; i < nr_segs; i++) {
        unsigned first = whole ? 0 : chance(&peer, PAGE_SECTORS);
        unsigned last = whole ? PAGE_SECTORS - 1 : first + chance(&peer, PAGE_SECTORS - first);
        work->segs[i] = (struct blkif_request_segment){
            .gref = page_get(), .first_sect = (uint8_t)first, .last_sect = (uint8_t)last};
        work->nr_sectors += last - first + 1;
    }
}

static void work_drop(struct work *work)
{
    for (unsigned i = 0; i < work->nr_segs; i++)
        page_put(work->segs[i].gref);
    if (work->table >= 0)
        page_put((uint32_t)work->table);
    work->busy = false;
}

/* Fresh random bytes into the pages and the shadow at once. */
static void work_fill(struct work *work)
{
    uint64_t sector = work->sector;
    for (unsigned i = 0; i < work->nr_segs; i++) {
        uint8_t *bytes = segment_bytes(&work->segs[i]);
        unsigned size = segment_sectors(&work->segs[i]) * SECTOR;
        for (unsigned at = 0; at < size; at++)
            bytes[at] = (uint8_t)chance(&peer, 256);
        memcpy(shadow + sector * SECTOR, bytes, size);
        memset(known + sector, 1, size / SECTOR);
        sector += size / SECTOR;
    }
}

static void put_direct(const struct work *work, uint64_t id, uint8_t *slot)
{
    struct blkif_request *request = (struct blkif_request *)slot;
    request->operation = work->op;
    request->nr_segments = (uint8_t)work->nr_segs;
    request->id = id;
    request->sector_number = work->sector;
    memcpy(request->seg, work->segs, work->nr_segs * sizeof work->segs[0]);
}

static void put_discard(const struct work *work, uint64_t id, uint8_t *slot)
{
    struct blkif_request_discard *request = (struct blkif_request_discard *)slot;
    request->operation = BLKIF_OP_DISCARD;
    request->id = id;
    request->sector_number = work->sector;
    request->nr_sectors = work->nr_sectors;
}

static void put_indirect(const struct work *work, uint64_t id, uint8_t *slot)
{
    struct blkif_request_indirect *request = (struct blkif_request_indirect *)slot;
    memcpy(peer.data + (size_t)work->table * PAGE, work->segs,
           work->nr_segs * sizeof work->segs[0]);
    request->operation = BLKIF_OP_INDIRECT;
    request->indirect_op = work->op;
    request->nr_segments = (uint16_t)work->nr_segs;
    request->id = id;
    request->sector_number = work->sector;
    request->indirect_grefs[0] = (grant_ref_t)work->table;
}

static void work_put(struct work *work)
{
    uint8_t *slot = (uint8_t *)RING_GET_REQUEST(&front, front.req_prod_pvt);
    uint64_t id = (uint64_t)(work - works) | (uint64_t)chance(&peer, 1u << 30) << 32;
    memset(slot, 0, sizeof(struct blkif_request));
    if (work->op == BLKIF_OP_DISCARD)
        put_discard(work, id, slot);
    else if (work->table >= 0)
        put_indirect(work, id, slot);
    else
        put_direct(work, id, slot);
    front.req_prod_pvt++;
    work->busy = true;
    in_flight++;
    by_op[work->op]++;
    indirects += work->table >= 0;
}

static uint8_t choose_op(void)
{
    unsigned dice = chance(&peer, 100);
    return dice < 45 ? BLKIF_OP_READ : dice < 90 ? BLKIF_OP_WRITE
           : dice < 95 ? BLKIF_OP_FLUSH_DISKCACHE : BLKIF_OP_DISCARD;
}

static bool place_somewhere(struct work *work)
{
    if (work->nr_sectors > (unsigned long)peer.sectors)
        return false;
    work->sector = chance(&peer, (unsigned)(peer.sectors - work->nr_sectors + 1));
    return !overlaps(work->sector, work->nr_sectors);
}

static bool ask_mixed(struct work *work)
{
    bool indirect = peer.indirect && chance(&peer, 4) == 0;
    work->op = choose_op();
    if (work->op == BLKIF_OP_FLUSH_DISKCACHE) {
        work->sector = 0;
        return true;
    }
    if (work->op == BLKIF_OP_DISCARD) {
        work->nr_sectors = 1 + chance(&peer, 40);
        if (!place_somewhere(work))
            return false;
        memset(known + work->sector, 0, work->nr_sectors);
        return true;
    }
    if (indirect)
        work->table = page_get();
    work_segments(work, 1 + chance(&peer, indirect ? MAX_SEGS : 11), false);
    if (!place_somewhere(work))
        return false;
    if (work->op == BLKIF_OP_WRITE)
        work_fill(work);
    return true;
}

static void ask_fill(struct work *work, uint64_t page)
{
    work->op = BLKIF_OP_WRITE;
    work_segments(work, 1, true);
    work->sector = page * PAGE_SECTORS;
    work_fill(work);
}

static struct work *work_new(void)
{
    for (long i = 0; i < peer.slots; i++)
        if (!works[i].busy) {
            works[i] = (struct work){.table = -1};
            return &works[i];
        }
    FAIL(EXIT_PROTOCOL, "the ring has credit and no id is free");
}

/* One more request, if there is credit, pages and room on the device. */
static bool ask(long fill)
{
    if (RING_FULL(&front) || nr_free < MAX_SEGS + 1)
        return false;
    struct work *work = work_new();
    if (issued < fill)
        ask_fill(work, (uint64_t)issued);
    else if (!ask_mixed(work)) {
        work_drop(work);
        return false;
    }
    work_put(work);
    issued++;
    return true;
}

/* ---- being answered ---------------------------------------------------- */

static void verify_sector(uint64_t sector, const uint8_t *bytes)
{
    if (!known[sector])
        return;
    if (memcmp(bytes, shadow + sector * SECTOR, SECTOR) != 0)
        FAIL(EXIT_DATA, "sector %lu does not read as it was written", (unsigned long)sector);
    verified += SECTOR;
}

static void verify_canary(const struct blkif_request_segment *seg)
{
    const uint8_t *page = peer.data + (size_t)seg->gref * PAGE;
    for (unsigned at = 0; at < PAGE; at++)
        if ((at < seg->first_sect * SECTOR || at >= (seg->last_sect + 1u) * SECTOR) &&
            page[at] != CANARY)
            FAIL(EXIT_DATA, "byte %u of page %u was written outside the segment", at, seg->gref);
}

/* A read must bring the shadow's bytes, a write must leave its own alone. */
static void verify(const struct work *work)
{
    uint64_t sector = work->sector;
    for (unsigned i = 0; i < work->nr_segs; i++) {
        const uint8_t *bytes = segment_bytes(&work->segs[i]);
        for (unsigned n = segment_sectors(&work->segs[i]); n > 0; n--, bytes += SECTOR)
            verify_sector(sector++, bytes);
        verify_canary(&work->segs[i]);
    }
}

static void take(RING_IDX index)
{
    struct blkif_response response;
    memcpy(&response, RING_GET_RESPONSE(&front, index), sizeof response);
    const uint8_t *raw = (const uint8_t *)&response;
    uint64_t which = response.id & 0xFFFFFFFF;
    if (which >= (uint64_t)peer.slots || !works[which].busy)
        FAIL(EXIT_PROTOCOL, "a response to %#lx, which was not asked", (unsigned long)response.id);
    if (response.operation != works[which].op)
        FAIL(EXIT_PROTOCOL, "operation %u answered as %u", works[which].op, response.operation);
    if (response.status != BLKIF_RSP_OKAY)
        FAIL(EXIT_PROTOCOL, "operation %u has status %d", response.operation, response.status);
    if (raw[9] | raw[12] | raw[13] | raw[14] | raw[15])
        FAIL(EXIT_PROTOCOL, "the padding of a response is not zero");
    verify(&works[which]);
    work_drop(&works[which]);
    in_flight--;
}

static void take_all(void)
{
    RING_IDX prod = __atomic_load_n(&front.sring->rsp_prod, __ATOMIC_ACQUIRE);
    if (RING_RESPONSE_PROD_OVERFLOW(&front, prod))
        FAIL(EXIT_PROTOCOL, "rsp_prod %u is impossible", prod);
    while (front.rsp_cons != prod)
        take(front.rsp_cons++);
}

static void settle(void)
{
    int more;
    take_all();
    if (in_flight == 0)
        return;
    RING_FINAL_CHECK_FOR_RESPONSES(&front, more);
    if (!more)
        peer_wait(&peer, peer.call_fd);
}

static void push(void)
{
    int notify;
    RING_IDX old = front.sring->req_prod;
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&front, notify);
    if (old != front.req_prod_pvt)
        peer_notify(&peer, notify, peer.kick_fd);
}

static void run(void)
{
    long fill = peer.sectors / PAGE_SECTORS, total = fill + peer.ops;
    while (issued < total || in_flight > 0) {
        for (unsigned batch = 1 + chance(&peer, 8); batch > 0 && issued < total; batch--)
            if ((issued == fill && in_flight > 0) || !ask(fill))
                break;
        push();
        settle();
    }
}

static void *zeroed(long count, size_t size)
{
    void *memory = calloc((size_t)count, size);
    if (memory == NULL)
        FAIL(EXIT_USAGE, "no memory");
    return memory;
}

int main(int argc, char **argv)
{
    peer_options(&peer, argc, argv);
    peer_map(&peer);
    FRONT_RING_ATTACH(&front, peer_ring(&peer), (RING_IDX)peer.start, peer_ring_bytes(&peer));
    if (RING_SIZE(&front) != (unsigned long)peer.slots)
        FAIL(EXIT_USAGE, "Xen makes %u slots of it", RING_SIZE(&front));
    works = zeroed(peer.slots, sizeof *works);
    shadow = zeroed(peer.sectors, SECTOR);
    known = zeroed(peer.sectors, 1);
    free_pages = zeroed(peer.data_pages, sizeof *free_pages);
    for (long page = 0; page < peer.data_pages; page++)
        free_pages[nr_free++] = (uint32_t)page;
    run();
    printf("{\"reads\": %ld, \"writes\": %ld, \"flushes\": %ld, \"discards\": %ld, "
           "\"indirect\": %ld, \"verified\": %ld, \"kicks\": %ld, \"held_off\": %ld, "
           "\"waits\": %ld}\n",
           by_op[BLKIF_OP_READ], by_op[BLKIF_OP_WRITE], by_op[BLKIF_OP_FLUSH_DISKCACHE],
           by_op[BLKIF_OP_DISCARD], indirects, verified, peer.kicks, peer.held_off, peer.waits);
    return 0;
}
